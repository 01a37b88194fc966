from __future__ import annotations

import io

from hearthd.command.progress import Lines
from hearthd.command.replies import Step


def lines_of(*steps: Step) -> list[str]:
    out = io.StringIO()
    display = Lines(out)
    for step in steps:
        display.show(step)
    return out.getvalue().splitlines()


def test_a_status_is_written_once() -> None:
    steps = [Step(status="pulling manifest"), Step(status="pulling manifest"), Step(status="success")]
    assert lines_of(*steps) == ["pulling manifest", "success"]


def test_a_layer_is_written_each_tenth_of_its_size() -> None:
    steps = (Step(status="pulling abc", digest="sha256:abc", total=2000, completed=done) for done in range(0, 2001, 20))
    percents = [line.split(":")[1].split("%")[0].strip() for line in lines_of(*steps)]
    assert percents == [str(percent) for percent in range(0, 101, 10)]


def test_a_line_tells_bytes_and_speed() -> None:
    first, last = lines_of(*(Step(status="pulling abc", total=2000, completed=done) for done in (0, 2000)))
    assert first == "pulling abc: 0% (0 B of 2 KB)"
    assert last.startswith("pulling abc: 100% (2 KB of 2 KB, ")
    assert last.endswith("B/s)")


def test_layers_that_come_in_turns_do_not_hide_each_other() -> None:
    steps = [Step(status=f"pulling {name}", total=100, completed=done) for done in (0, 50) for name in "ab"]
    assert [line.split("%")[0] for line in lines_of(*steps)] == [
        "pulling a: 0", "pulling b: 0", "pulling a: 50", "pulling b: 50"
    ]  # fmt: skip


def test_more_than_the_total_is_all_of_it() -> None:
    assert lines_of(Step(status="x", total=10, completed=11)) == ["x: 100% (11 B of 10 B)"]


def test_control_characters_are_dropped() -> None:
    assert lines_of(Step(status="\x1b]0;title\x07pulling\r\n")) == ["]0;titlepulling"]
