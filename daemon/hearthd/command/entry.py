"""From the words of the command line to the verb, and from its end to the exit status."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from importlib import import_module
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hearthd.command.failure import CommandFailed
from hearthd.command.terminal import line
from hearthd.command.verbs import ALIASES, LOCAL, VERBS, Verb, usage

FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(words: list[str]) -> int:
    """The exit status of `hearth` with these words; see hearthd.cli.main."""
    _open_streams()
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        return status
    except CommandFailed as error:
        return _fail(str(error), FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader has enough; https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except UnicodeError:
        return _fail("an argument or a variable of the environment is not valid text", FAILED)
    except OSError as error:
        return _fail(f"{error.strerror or error}", FAILED)


def _open_streams() -> None:
    """Streams that were closed lead nowhere; what their encoding cannot say is replaced."""
    sys.stdin, sys.stdout, sys.stderr = sys.stdin or _nowhere(), sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("r+")


def _dispatch(words: list[str]) -> int:
    match words:
        case []:
            sys.stdout.write(usage())
            return USAGE
        case ["help", verb, *_] if verb in {*VERBS, *ALIASES, *LOCAL} - {"help"}:
            return _dispatch([verb, "--help"])
        case ["-h" | "--help" | "help", *_]:
            sys.stdout.write(usage())
            return 0
        case ["-v" | "--version" | "version", *_]:
            return _version()
        case ["check", *options]:
            return _check(options)
        case ["install-service" | "uninstall-service" as verb, *options]:
            return _service(verb, options)
    row = VERBS.get(ALIASES.get(words[0], words[0]))
    if row is None:
        return _fail(f"unknown command {words[0][:100]!r}; see hearth --help", USAGE)
    return _run(words[0], row, words[1:])


def _run(name: str, verb: Verb, words: list[str]) -> int:
    from hearthd.command.client import Client, host_of

    parser = _Parser(prog=f"hearth {name}", description=verb.summary.capitalize() + ".", allow_abbrev=False)
    _function(verb.define)(parser)
    arguments = parser.arguments(words)
    client = Client(host_of(os.environ), os.environ.get("OLLAMA_API_KEY", ""))
    client.greet()
    status: int = _function(verb.main)(arguments, client)
    return status


def _function(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"hearthd.command.{module}"), name)
    return function


class _Parser(ArgumentParser):
    """Options may stand before, between and behind the arguments; after `--` there are none."""

    def arguments(self, words: list[str]) -> Namespace:
        """The arguments in `words`; leaves the program with status 2 where they make no sense."""
        return self.parse_intermixed_args(list(_with_values(words)))

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"Error: {line(message)}\n{self.format_usage()}")
        sys.exit(USAGE)


def _with_values(words: list[str]) -> Iterator[str]:
    """The words with `--think` and `--keepalive` made plain: a prompt may follow the one, `-1m` the other."""
    following = iter(words)
    for word in following:
        if word == "--keepalive":
            yield "=".join([word, *islice(following, 1)])
        else:
            yield "--think=true" if word == "--think" else word
        if word == "--":
            yield from following


def _version() -> int:
    from hearthd import __version__
    from hearthd.command.client import Client, host_of
    from hearthd.command.replies import Version

    sys.stdout.write(f"hearth {__version__}\n")
    sys.stdout.flush()
    try:
        host = host_of(os.environ)
        server = Client(host).get("/api/version", Version).version
        sys.stdout.write(f"server at {host.url}: {line(server, 100)}\n")
    except CommandFailed as error:
        sys.stdout.write(f"{error}\n")
    return 0


def _check(options: list[str]) -> int:
    from hearthd import checks

    parser = _Parser(prog="hearth check", description=LOCAL["check"].capitalize() + ".", allow_abbrev=False)
    parser.add_argument("--verify", action="store_true", help="read every blob and compare it with its digest")
    return checks.main(os.environ, verify=parser.arguments(options).verify)


def _service(verb: str, options: list[str]) -> int:
    from hearthd.command import service

    parser = _Parser(prog=f"hearth {verb}", description=LOCAL[verb].capitalize() + ".", allow_abbrev=False)
    if verb == "install-service":
        service.define_install(parser)
        return service.install(parser.arguments(options))
    service.define_uninstall(parser)
    return service.uninstall(parser.arguments(options))


def _fail(sentence: str, status: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"Error: {line(sentence)}\n")
    return status
