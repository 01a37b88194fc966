"""A line of input, edited on the terminal by the standard library's readline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from hearthd.command.terminal import is_terminal

try:
    import readline
except ImportError:  # a Python without it: lines come unedited
    readline = None  # type: ignore[assignment]

HISTORY_ENTRIES = 1000

_PASTE_ON = "\x1b[?2004h"  # the terminal marks what is pasted, so that its line ends are text
_PASTE_OFF = "\x1b[?2004l"
_GREY = "\x1b[38;5;245m"
_NORMAL = "\x1b[0m"
_WIPE = "\r\x1b[K"


class Editor:
    """Reads lines from the terminal. `history`: the file that keeps them, None for none."""

    def __init__(self, history: Path | None) -> None:
        self._history = history
        self.keeps_history = history is not None
        if readline is not None:
            readline.set_auto_history(False)
            readline.parse_and_bind(f"set enable-bracketed-paste {'on' if is_terminal(sys.stdout) else 'off'}")
            for entry in _read_history(history) if history else []:
                readline.add_history(entry)

    def read(self, prompt: str, hint: str) -> str:
        """The next line, which may hold newlines where it was pasted; `hint` stands there until the first key.

        Raises EOFError after Ctrl-D and KeyboardInterrupt after Ctrl-C, with an argument where a line was begun.
        """
        has_begun = False
        try:
            with _keys_at_once():
                if is_terminal(sys.stdout):
                    _wait_for_key(prompt, hint)
                has_begun = True
                text = input(prompt)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(*["line"] * has_begun) from None
        self._keep(text)
        return text

    def _keep(self, text: str) -> None:
        if not text.strip() or readline is None or not self.keeps_history:
            return
        readline.add_history(text)
        if self._history is not None:
            _append_history(self._history, text)


@contextlib.contextmanager
def _keys_at_once() -> Iterator[None]:
    """Within the block the terminal hands over each key, not whole lines; it echoes, as readline wants to find it."""
    before = termios.tcgetattr(sys.stdin)
    during = termios.tcgetattr(sys.stdin)
    during[3] &= ~termios.ICANON
    during[6][termios.VMIN], during[6][termios.VTIME] = 1, 0
    try:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, during)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _wait_for_key(prompt: str, hint: str) -> None:
    """Show prompt and hint until there is a key to read; it is left to be read."""
    echoing = termios.tcgetattr(sys.stdin)
    silent = termios.tcgetattr(sys.stdin)
    silent[3] &= ~termios.ECHO
    try:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
        _write(_PASTE_ON + prompt + (f"{_GREY}{hint}{_NORMAL}\x1b[{len(hint)}D" if hint else ""))
        with _signals() as signals:
            select.select([sys.stdin, signals], [], [])
        _write(_WIPE + _PASTE_OFF)
    except KeyboardInterrupt:
        _write(_WIPE + _PASTE_OFF + prompt)
        raise
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, echoing)


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """A descriptor that can be read after a signal: one that comes just before `select` would else go unseen."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _read_history(path: Path) -> list[str]:
    """The last entries of the file; none where it cannot be read. A long file is cut."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
    if len(lines) > 2 * HISTORY_ENTRIES:
        with contextlib.suppress(OSError):
            _write_private(path, "".join(f"{line}\n" for line in lines[-HISTORY_ENTRIES:]), os.O_TRUNC)
    return [_unescaped(line) for line in lines[-HISTORY_ENTRIES:]]


def _append_history(path: Path, text: str) -> None:
    """Keep an entry; a history that cannot be written is not worth a word."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_private(path, _escaped(text) + "\n", os.O_APPEND)


def _write_private(path: Path, text: str, flag: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600), "wb") as file:
        file.write(text.encode("utf-8", "replace"))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _unescaped(line: str) -> str:
    parts = line.split("\\\\")
    return "\\".join(part.replace("\\n", "\n").replace("\\r", "\r") for part in parts)
