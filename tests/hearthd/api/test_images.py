from __future__ import annotations

import base64

import pytest

from hearthd.api.images import check_images
from hearthd.errors import BadRequest


@pytest.mark.parametrize("length", range(9))
def test_whole_base64_passes(length: int) -> None:
    text = base64.b64encode(bytes(range(length))).decode()
    check_images([text, text + "\n", "\r\n".join(text)])


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("!", 0),
        ("AA!A", 2),
        ("AAAA-", 4),
        ("A", 0),
        ("AAAAAA", 4),
        ("AAAAA", 4),
        ("=AAA", 0),
        ("A===", 1),
        ("AA=", 3),
        ("AA=A", 2),
        ("AAA=A", 4),
        ("AA==A", 4),
        ("AA==\nA", 5),
        ("data:image/png;base64,AAAA", 4),
    ],
)
def test_what_is_wrong_is_told_by_its_offset(text: str, offset: int) -> None:
    with pytest.raises(BadRequest, match=f"^illegal base64 data at input byte {offset}$"):
        check_images(["AAAA", text])
