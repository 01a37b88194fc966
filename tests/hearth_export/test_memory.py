"""A conversion takes the same memory whatever the model's size."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.hearth_export.converted import DIGEST, info_of
from tests.hearth_export.large_gguf import layers_of, write_large_gguf
from tests.hearth_export.peak import Ended, run

MAX_PEAK_BYTES = 250 << 20
SOURCE_BYTES, FLOAT_LAYERS = 3 << 30, 2
DISK_BYTES = 10 << 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("float_type", "num_layers"), [("", layers_of(SOURCE_BYTES)), ("BF16", FLOAT_LAYERS), ("F32", FLOAT_LAYERS)]
)
def test_model_of_gigabytes_converts_within_the_memory_of_a_small_one(
    tmp_path: Path, float_type: str, num_layers: int
) -> None:
    if shutil.disk_usage(tmp_path).free < DISK_BYTES:
        pytest.skip(f"needs {DISK_BYTES >> 30} GiB of free disk under {tmp_path}")
    source, root = write_large_gguf(tmp_path / "large.gguf", num_layers, float_type), tmp_path / "variants"
    try:
        assert source.stat().st_size > SOURCE_BYTES * 0.9
        start_s = time.monotonic()
        done = conversion(source, root)
        print(
            f"{source.stat().st_size >> 20} MiB: {time.monotonic() - start_s:.1f} s, peak {done.peak_bytes >> 20} MiB"
        )
        assert done.peak_bytes <= MAX_PEAK_BYTES
        (variant,) = (path.parent for path in root.glob("*/variant.json"))
        assert info_of(variant).weight_bytes > 1 << 30
    finally:
        source.unlink()
        shutil.rmtree(root, ignore_errors=True)


def test_real_model_converts_within_the_memory_of_a_small_board(smollm2_gguf: Path, tmp_path: Path) -> None:
    assert conversion(smollm2_gguf, tmp_path).peak_bytes <= MAX_PEAK_BYTES


def conversion(source: Path, root: Path) -> Ended:
    done = run("convert", str(source), "--digest", DIGEST, "--out", str(root))
    assert done.returncode == 0, done
    return done
