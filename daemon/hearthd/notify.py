"""The service manager: what it hands over, what it is told, and its journal. The only module that imports systemd.

sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), systemd.service(5). Where no manager started this process
nothing is told to anybody.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from hearthd.errors import HearthError

WATCHDOG_SHARE = 0.5  # of the time that the manager waits: sd_watchdog_enabled(3)
MAX_STATUS_CHARS = 200
USEC = 1_000_000
REMEDY = "run: apt install python3-systemd, or pip install 'hearthd[systemd]'"


class NoBinding(HearthError):
    """A manager waits for word, and what speaks to it is not installed."""


class Manager:
    """What the service manager is told; `tell` takes the lines of sd_notify(3)."""

    def __init__(self, tell: Callable[[str], object] | None = None, watchdog_s: float = 0.0) -> None:
        self._tell = tell
        self.watchdog_s = watchdog_s  # how often it wants to hear; 0: it does not
        self._status = ""

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return self._tell is not None

    def ready(self, status: str) -> None:
        """The start, or a reload, is over."""
        self._status = _line(status)
        self._send("READY=1", f"STATUS={self._status}")

    def status(self, status: str) -> None:
        """What `systemctl status` shows."""
        if _line(status) != self._status:
            self._status = _line(status)
            self._send(f"STATUS={self._status}")

    def feed(self) -> None:
        """All is well."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float, status: str = "") -> None:
        """What is under way, start, reload or stop, may take so long from now."""
        self._status = _line(status) or self._status
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * USEC)}", f"STATUS={self._status}")

    def reloading(self) -> None:
        """The settings are read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str) -> None:
        """No more requests are taken."""
        self._status = _line(status)
        self._send("STOPPING=1", f"STATUS={self._status}")

    def _send(self, *lines: str) -> None:
        if self._tell is not None:
            with suppress(OSError):  # a manager that has gone is no reason to go
                self._tell("\n".join(lines))


def open_manager(environ: Mapping[str, str] = os.environ) -> Manager:
    """The manager that started this process, or none. NoBinding where it waits and cannot be told anything."""
    if not environ.get("NOTIFY_SOCKET"):
        return Manager()
    try:
        from systemd.daemon import notify
    except ImportError:
        raise NoBinding(f"systemd waits for word, and systemd-python is not installed; {REMEDY}") from None
    return Manager(notify, _watchdog_s(environ))


def _watchdog_s(environ: Mapping[str, str]) -> float:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    with suppress(ValueError):
        return WATCHDOG_SHARE * max(0, int(environ.get("WATCHDOG_USEC", "0"))) / USEC
    return 0.0


def take_sockets(environ: Mapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening stream sockets that systemd hands over; [] where it hands over none: sd_listen_fds(3).

    NoBinding where they cannot be taken.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        from systemd.daemon import listen_fds
    except ImportError:
        raise NoBinding(f"systemd hands over a socket, and systemd-python is not installed; {REMEDY}") from None
    return [found for found in map(_listening, listen_fds(unset_environment=True)) if found is not None]


def _listening(fd: int) -> socket.socket | None:
    os.set_inheritable(fd, False)
    with suppress(OSError):
        found = socket.socket(fileno=fd)
        if found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.setblocking(False)
            return found
        found.detach()
    return None


def journal() -> Callable[..., object] | None:
    """What sends an entry to the journal, fields as words NAME=value; None where systemd-python is not installed."""
    try:
        from systemd._journal import sendv  # systemd.journal has it too, and brings what reads journals
    except ImportError:
        return None
    send: Callable[..., object] = sendv
    return send


def _line(text: str) -> str:
    return " ".join(text.replace("\0", " ").encode("utf-8", "replace").decode().split())[:MAX_STATUS_CHARS]
