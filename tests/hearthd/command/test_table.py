from __future__ import annotations

from hearthd.command.table import table_text


def test_cells_are_padded_and_followed_by_four_blanks() -> None:
    text = table_text([("llama3:latest", "4.7 GB"), ("a:1", "91 MB")], ("NAME", "SIZE"))
    assert text == (
        "NAME             SIZE   \n"  # the heading's last cell is followed by one blank
        "llama3:latest    4.7 GB    \n"
        "a:1              91 MB     \n"
    )


def test_without_rows_the_heading_stays() -> None:
    assert table_text([], ("NAME", "SIZE")) == "NAME    SIZE \n"


def test_a_wide_cell_goes_on_below() -> None:
    assert table_text([("", "one two three")], max_width=8) == "    one two    \n    three      \n"


def test_wide_characters_take_two_columns() -> None:
    assert table_text([("猫",), ("cats",)]) == "猫      \ncats    \n"


def test_control_characters_are_dropped() -> None:
    assert table_text([("\x1b[31mred\x07",)]) == "[31mred    \n"
