from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from hearthd import log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_has_time_level_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(logging.INFO)
    logging.getLogger("hearthd.test").info("ready %s", "tiny")
    line = capsys.readouterr().err
    assert line.endswith(" INFO    ready tiny\n")
    assert line[:2] == "20"


def test_below_the_level_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(logging.WARNING)
    logging.getLogger("hearthd.test").info("quiet")
    assert capsys.readouterr().err == ""


def test_the_http_server_only_warns(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(logging.DEBUG)
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert capsys.readouterr().err.count("\n") == 1
