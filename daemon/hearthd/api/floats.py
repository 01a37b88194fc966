"""Vectors as JSON, without a library for numbers: bytes of float32 in, text out."""

from __future__ import annotations

FLOAT_BYTES = 4
# nine digits tell a float32 from its neighbours (IEEE 754-2019, 5.12.2); a double's seventeen are half as much again
_number = "{:.9g}".format


def vector_json(vector: memoryview) -> bytes:
    """A JSON list of the little-endian float32 values in `vector`, which are finite."""
    return ("[" + ",".join(map(_number, vector.cast("f").tolist())) + "]").encode()
