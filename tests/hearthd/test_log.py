from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hearthd import log
from hearthd.values import TRACE


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


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The entries that a handler for the journal makes of the log."""
    entries: list[dict[str, str]] = []

    def send(*words: str) -> None:
        entries.append(dict(word.split("=", 1) for word in words))

    root = logging.getLogger()
    root.handlers[:] = [log.JournalHandler(send)]
    root.setLevel(logging.DEBUG)
    return entries


def test_the_journal_gets_text_priority_and_name(journal: list[dict[str, str]]) -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logging.getLogger("hearthd.test").log(level, "ready %s", "tiny")
    assert [entry["PRIORITY"] for entry in journal] == ["7", "6", "4", "3", "2"]
    assert {entry["MESSAGE"] for entry in journal} == {"ready tiny"}
    assert {entry["SYSLOG_IDENTIFIER"] for entry in journal} == {"hearth"}


def test_the_journal_gets_the_fields_that_are_known(journal: list[dict[str, str]]) -> None:
    told = log.fields(model="tiny", num_bytes=5, duration_ns=7_000_000, status=200)
    token = log.request_id.set("17")
    try:
        logging.getLogger("hearthd.test").info("ready", extra=told)
    finally:
        log.request_id.reset(token)
    fields = {name: value for name, value in journal[0].items() if name.startswith("HEARTH_")}
    assert fields == {
        "HEARTH_MODEL": "tiny",
        "HEARTH_BYTES": "5",
        "HEARTH_DURATION_USEC": "7000",
        "HEARTH_STATUS": "200",
        "HEARTH_REQUEST_ID": "17",
    }


TO_THE_JOURNAL = """
import logging, os, sys
from hearthd import log, notify
stream = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{stream.st_dev}:{stream.st_ino}"
"""
TWO_LINES = r'logging.getLogger("hearthd").error("one\ntwo")'


def written(program: str) -> str:
    """What a program writes to standard error."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr


def test_without_the_binding_each_line_for_the_journal_begins_with_its_priority() -> None:
    configure = "notify.journal = lambda: None; log.configure(logging.INFO)"
    assert written(f"{TO_THE_JOURNAL}\n{configure}\n{TWO_LINES}") == "<3>one\n<3>two\n"


def test_lines_of_a_child_for_the_journal_begin_with_their_priority() -> None:
    configure = "log.configure_child(logging.WARNING); assert 'systemd' not in sys.modules"
    assert written(f"{TO_THE_JOURNAL}\n{configure}\n{TWO_LINES}") == "<3>one\n<3>two\n"


def test_a_line_of_a_child_is_that_of_the_daemon_elsewhere() -> None:
    told = written(f"import logging\nfrom hearthd import log\nlog.configure_child(logging.WARNING)\n{TWO_LINES}")
    assert re.fullmatch(r"[-0-9]+ [:,0-9]+ ERROR   one\ntwo\n", told)


def test_a_priority_below_that_of_debug_does_not_exist() -> None:
    assert log.priority(TRACE) == log.priority(logging.DEBUG) == 7


def test_fields_that_are_not_known_are_left_out_and_those_that_are_nothing_are_not(
    journal: list[dict[str, str]],
) -> None:
    logging.getLogger("hearthd.test").info("gone", extra=log.fields(num_bytes=0, pid=42))
    logging.getLogger("hearthd.test").info("idle", extra=log.fields())
    assert [{name: entry[name] for name in entry if name.startswith("HEARTH_")} for entry in journal] == [
        {"HEARTH_BYTES": "0", "HEARTH_RUNNER_PID": "42"},
        {},
    ]


def test_an_entry_has_its_place_and_the_traceback_of_an_error(journal: list[dict[str, str]]) -> None:
    try:
        raise RuntimeError("went wrong")
    except RuntimeError:
        logging.getLogger("hearthd.test").exception("failed")
    (entry,) = journal
    assert entry["MESSAGE"].startswith("failed\nTraceback ")
    assert entry["MESSAGE"].endswith("RuntimeError: went wrong")
    assert (entry["LOGGER"], entry["CODE_FILE"]) == ("hearthd.test", __file__)
    assert entry["CODE_LINE"].isdecimal()


def test_a_journal_that_cannot_be_written_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def send(*words: str) -> None:
        raise OSError("the journal has gone")

    logging.getLogger().handlers[:] = [log.JournalHandler(send)]
    logging.getLogger("hearthd.test").error("text")
    assert "the journal has gone" in capsys.readouterr().err


def test_where_standard_error_leads_to_the_journal_nothing_is_written_to_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sent: list[str] = []
    stream = os.fstat(sys.stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{stream.st_dev}:{stream.st_ino}")
    monkeypatch.setattr("hearthd.notify.journal", lambda: lambda *words: sent.append(words[0]))
    log.configure(logging.INFO)
    logging.getLogger("hearthd.test").info("text")
    assert sent == ["MESSAGE=text"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stream", ["", "1:1", "rubbish"])
def test_where_standard_error_leads_elsewhere_lines_are_plain(
    stream: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    log.configure(logging.INFO)
    logging.getLogger("hearthd.test").info("text")
    line = capfd.readouterr().err
    assert line.endswith(" INFO    text\n")
    assert line[:2] == "20"
