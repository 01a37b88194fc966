"""`hearth create`: a model from a Modelfile and files of this machine."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from hearthd import modelfile, options, repository
from hearthd.command.client import Client
from hearthd.command.failure import CommandFailed
from hearthd.command.progress import Display, open_display
from hearthd.command.replies import Step
from hearthd.errors import HearthError
from hearthd.modelfile import Modelfile

MAX_MODELFILE_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_FILE_NAMES = ("Modelfile", "modelfile")
_UNSUPPORTED = ("draft",)


def define(parser: ArgumentParser) -> None:
    """The arguments of `create`."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("-f", "--file", default="", metavar="FILE", help="the Modelfile; - is standard input")
    parser.add_argument("-q", "--quantize", default="", metavar="TYPE", help="quantize a float model, to Q4_K_M say")


def create(arguments: Namespace, client: Client) -> int:
    """Upload what the Modelfile names and have the model made, showing how far it is."""
    text, directory = _read(arguments.file)
    with open_display() as display:
        fields = _Request(client, display, directory).fields(_parsed(text))
        if arguments.quantize:
            fields["quantize"] = arguments.quantize
        payload = {"model": arguments.model, "stream": True, **fields}
        with closing(client.stream("/api/create", payload, Step)) as steps:
            for step in steps:
                display.show(step)
    return 0


def _read(file: str) -> tuple[bytes, Path]:
    """The Modelfile's bytes, and the directory at which its relative paths start."""
    if file == "-":
        return _bounded(sys.stdin.buffer.read(MAX_MODELFILE_BYTES + 1), "standard input"), Path()
    path = _expanded(file) if file else _default_file()
    try:
        with path.open("rb") as stream:
            return _bounded(stream.read(MAX_MODELFILE_BYTES + 1), str(path)), path.parent
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}") from None


def _default_file() -> Path:
    for name in _FILE_NAMES:
        if (path := Path(name)).is_file():
            return path
    raise CommandFailed("no Modelfile in this directory; write one, or name it with -f")


def _bounded(text: bytes, what: str) -> bytes:
    if len(text) > MAX_MODELFILE_BYTES:
        raise CommandFailed(f"{what} exceeds {MAX_MODELFILE_BYTES} bytes, so it is no Modelfile")
    return text


def _parsed(text: bytes) -> Modelfile:
    try:
        return modelfile.parse(text)
    except HearthError as error:
        raise CommandFailed(f"the Modelfile cannot be read: {error}") from None


class _Request:
    """The fields of /api/create that a Modelfile stands for; files are uploaded while they are found."""

    def __init__(self, client: Client, display: Display, directory: Path) -> None:
        self._client = client
        self._display = display
        self._directory = directory

    def fields(self, file: Modelfile) -> dict[str, Any]:
        """All fields that the Modelfile fills."""
        for word in _UNSUPPORTED:
            if file.values(word):
                raise CommandFailed(f"{word.upper()} is not supported yet; it comes with a later version")
        fields = self._sources(file.values("model")) | {"adapters": self._adapters(file.values("adapter"))}
        fields |= {word: values[-1] for word in ("template", "system", "renderer", "parser", "requires")
                   if (values := file.values(word))}  # fmt: skip
        fields["license"] = file.values("license")
        fields["parameters"] = parameters(file.parameters())
        fields["messages"] = [{"role": role, "content": text} for role, text in file.messages()]
        return {name: value for name, value in fields.items() if value}

    def _sources(self, arguments: list[str]) -> dict[str, Any]:
        """`from` for a model's name, `files` for files, of all FROM lines."""
        fields: dict[str, Any] = {"files": {}}
        for argument in arguments:
            if argument.startswith("@sha256:"):
                fields["files"]["model.gguf"] = argument[1:]
            elif paths := self._paths("FROM", argument, repository.checkpoint_files):
                fields["files"] |= self._uploaded(paths)
            else:
                fields["from"] = argument
        return fields

    def _adapters(self, arguments: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for argument in arguments:
            paths = self._paths("ADAPTER", argument, _adapter_files)
            if not paths:
                raise CommandFailed(f"ADAPTER {argument[:200]}: no such file")
            found |= self._uploaded(paths)
        return found

    def _paths(self, word: str, argument: str, in_directory: Callable[[Path], dict[str, Path]]) -> dict[str, Path]:
        """The files that the argument means, by their names for the server; none where it is a model's name."""
        path = self._directory / _expanded(argument)
        try:
            if path.is_dir():
                return _listed(word, argument, path, in_directory)
            if path.exists():
                return {path.name: path}
        except (OSError, ValueError):  # a name that no file can have
            pass
        if argument.startswith(("/", "~", "./", "../")):
            raise CommandFailed(f"{word} {argument[:200]}: no such file")
        return {}

    def _uploaded(self, paths: dict[str, Path]) -> dict[str, str]:
        return {name: self._upload(path) for name, path in paths.items()}

    def _upload(self, path: Path) -> str:
        """The digest of the file, which the server has afterwards."""
        import hashlib

        whole = hashlib.sha256()
        size = _size(path)
        for part in self._parts(path, size, f"reading {path.name}"):
            whole.update(part)
        digest = f"sha256:{whole.hexdigest()}"
        if not self._client.has_blob(digest):
            self._client.upload(digest, self._parts(path, size, f"uploading {path.name}"), size)
        return digest

    def _parts(self, path: Path, size: int, status: str) -> Iterator[bytes]:
        """The first `size` bytes of the file, shown as they are taken."""
        taken = 0
        for part in _blocks(path, size):
            taken += len(part)
            yield part
            self._display.show(Step(status=status, total=size, completed=taken))


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while size > 0:
                part = stream.read(min(_READ_BYTES, size))
                if not part:
                    raise CommandFailed(f"{path} became shorter while it was read")
                size -= len(part)
                yield part
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}") from None


def _listed(word: str, argument: str, path: Path, files_of: Callable[[Path], dict[str, Path]]) -> dict[str, Path]:
    try:
        return files_of(path)
    except HearthError as error:
        raise CommandFailed(f"{word} {argument[:200]}: {error}") from None
    except OSError as error:
        raise CommandFailed(f"{word} {argument[:200]} cannot be read: {error.strerror}") from None


def _adapter_files(directory: Path) -> dict[str, Path]:
    return {path.name: path for path in repository.adapter_files(directory)}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}") from None


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise CommandFailed(f"{text[:200]}: there is no such user") from None


def parameters(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """The values of PARAMETER lines in their options' types; a repeated list gathers. Raises CommandFailed."""
    found: dict[str, Any] = {}
    for name, text in pairs:
        value = parameter(name, text)
        found[name] = [*found.get(name, []), *value] if isinstance(value, tuple) else value
    return found


def parameter(name: str, text: str) -> Any:
    """One value; a tuple of one for `stop`. Raises CommandFailed."""
    parse: Callable[[str, str], Any] = options.parse_parameter
    try:
        return parse(name, text)
    except HearthError as error:
        raise CommandFailed(f"PARAMETER {name}: {error}") from None
