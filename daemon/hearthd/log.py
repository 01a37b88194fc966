"""The log: fields in the journal where standard error leads there, plain lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from hearthd import notify

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
IDENTIFIER = "hearth"
NS_PER_USEC = 1_000
NOT_OURS = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio")

# the request that the running task answers; ""
request_id: ContextVar[str] = ContextVar("request_id", default="")

_FIELDS = "hearth_fields"  # attribute of a record


def fields(
    *,
    model: str | None = None,
    num_bytes: int | None = None,
    duration_ns: int | None = None,
    pid: int | None = None,
    status: int | None = None,
) -> dict[str, Any]:
    """What a record tells the journal beside its text, for the `extra` of a logging call.

    They become HEARTH_MODEL, HEARTH_BYTES, HEARTH_DURATION_USEC, HEARTH_RUNNER_PID and HEARTH_STATUS.
    """
    named = {
        "HEARTH_MODEL": model,
        "HEARTH_BYTES": num_bytes,
        "HEARTH_DURATION_USEC": None if duration_ns is None else duration_ns // NS_PER_USEC,
        "HEARTH_RUNNER_PID": pid,
        "HEARTH_STATUS": status,
    }
    return {_FIELDS: {name: value for name, value in named.items() if value is not None}}


def configure(level: int) -> None:
    """Log everything of `level` and above; of the HTTP server only warnings. A second call changes the level."""
    _configure(level, _handler())
    for name in NOT_OURS:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def configure_child(level: int) -> None:
    """As configure, for a process that the daemon starts: in the journal its entries have a priority, and no fields.

    What sends fields would be loaded for the few lines that such a process writes.
    """
    _configure(level, _lines())


def _configure(level: int, handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _handler() -> logging.Handler:
    if _leads_to_journal() and (send := notify.journal()) is not None:
        return JournalHandler(send)
    return _lines()


def _lines() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Prioritized() if _leads_to_journal() else logging.Formatter(FORMAT))
    return handler


def _leads_to_journal(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether standard error is the stream that systemd made to the journal: systemd.exec(5), $JOURNAL_STREAM."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{stream.st_dev}:{stream.st_ino}"


def priority(level: int) -> int:
    """That of syslog(3) for one of logging's levels."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


class JournalHandler(logging.Handler):
    """Sends records to the journal: systemd.journal-fields(7)."""

    def __init__(self, send: Callable[..., object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """One entry."""
        try:
            self._send(*self._words(record))
        except Exception:  # as logging's own handlers: a log that cannot be written stops nothing
            self.handleError(record)

    def _words(self, record: logging.LogRecord) -> Iterator[str]:
        yield f"MESSAGE={self.format(record)}"
        yield f"PRIORITY={priority(record.levelno)}"
        yield f"SYSLOG_IDENTIFIER={IDENTIFIER}"
        yield f"LOGGER={record.name}"
        yield f"CODE_FILE={record.pathname}"
        yield f"CODE_LINE={record.lineno}"
        yield f"CODE_FUNC={record.funcName}"
        if number := request_id.get():
            yield f"HEARTH_REQUEST_ID={number}"
        for name, value in getattr(record, _FIELDS, {}).items():
            yield f"{name}={value}"


class _Prioritized(logging.Formatter):
    """Lines that begin with their priority, for a journal that is only reached through standard error: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())
