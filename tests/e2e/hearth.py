"""The command `hearth` as a user has it: a process, with pipes or on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.daemon import PATIENCE_S, Daemon

COMMAND = (sys.executable, "-c", "import sys; from hearthd.cli import main; sys.argv[0] = 'hearth'; sys.exit(main())")
# the spinner's frames are wiped, so they count as such
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|[\x01\x02\r⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]")

# the terminal becomes the process's own, so that Ctrl-C reaches it: https://man7.org/linux/man-pages/man4/tty_ioctl.4.html
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def environment(url: str, home: Path, **variables: str) -> dict[str, str]:
    """Variables of a user whose home is `home` and whose server is at `url`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HEARTH_", "OLLAMA_", "XDG_"))}
    return kept | {"HEARTH_HOST": url, "HOME": str(home), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | variables


def hearth(
    daemon: Daemon, home: Path, *words: str, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The finished command. Standard input is empty unless it is given."""
    return subprocess.run(
        [*COMMAND, *words],
        env=environment(daemon.url, home, **variables),
        cwd=home,
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Terminal:
    """A command on a terminal. What it writes is kept in `seen`, without escape sequences."""

    def __init__(self, words: tuple[str, ...], environ: dict[str, str], home: Path, columns: int) -> None:
        self._fd, inner = os.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *COMMAND, *words],
            env=environ, cwd=home, stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self.raw = b""
        self._expected_to = 0

    @property
    def seen(self) -> str:
        """All that was written so far."""
        return _ESCAPES.sub("", self.raw.decode("utf-8", "replace"))

    def expect(self, text: str) -> str:
        """Wait for `text` behind what was expected before; what was written up to its end."""
        deadline = time.monotonic() + PATIENCE_S
        while (at := self.seen.find(text, self._expected_to)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.raw[-300:]!r}"
            assert self._read(0.1), f"ended without {text!r}: {self.seen!r}"
        before, self._expected_to = self._expected_to, at + len(text)
        return self.seen[before : self._expected_to]

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._fd, keys.encode())

    def line(self, text: str) -> None:
        """Type a line and press Enter."""
        self.type(text + "\r")

    def rest(self) -> None:
        """Wait until the process sleeps: until readline waits for a key it may miss a signal."""
        status = Path(f"/proc/{self.process.pid}/stat")
        calm = 0
        while calm < 5:
            calm = calm + 1 if status.read_text().rpartition(")")[2].split()[0] == "S" else 0
            assert self._read(0.01)

    def wait(self) -> int:
        """The exit status; everything written is in `seen` then."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(0.1):
            assert time.monotonic() < deadline, f"still running: {self.seen!r}"
        return self.process.wait(PATIENCE_S)

    def modes(self) -> list[int]:
        """The terminal's flags: input, output, control, local."""
        return [int(flags) for flags in termios.tcgetattr(self._fd)[:4]]

    def take(self, num_bytes: int) -> None:
        """Wait until so much more was written."""
        wanted = len(self.raw) + num_bytes
        while len(self.raw) < wanted:
            assert self._read(PATIENCE_S), f"ended too early: {self.seen!r}"

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._fd)

    def _read(self, seconds: float) -> bool:
        """Take what is there; False at the end."""
        if select.select([self._fd], [], [], seconds)[0]:
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:  # the other side is closed
                return False
            self.raw += data
            return bool(data)
        return True


@contextmanager
def terminal(daemon: Daemon, home: Path, *words: str, columns: int = 80, **variables: str) -> Iterator[Terminal]:
    """The command on a terminal; it is gone after the block."""
    opened = Terminal(words, environment(daemon.url, home, **variables), home, columns)
    try:
        yield opened
    finally:
        opened.close()
