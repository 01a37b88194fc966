"""What a model is to be made of, read from a Modelfile or given field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hearthd.errors import BadRequest, Forbidden, InvalidName
from hearthd.modelfile import Modelfile
from hearthd.options import OPTIONS, Kind, OptionError, check_option, parse_parameter
from hearthd.store import names
from hearthd.store.contents import Message
from hearthd.store.names import ModelName

_BLOB = re.compile(r"@?(sha256[:-][0-9a-fA-F]{64})")
_SEMVER = re.compile(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")

# Ollama dropped these and warns of them; here they are kept
DEPRECATED = (
    "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock",
    "mirostat", "mirostat_tau", "mirostat_eta",
)  # fmt: skip


class CreateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A model to be made. Exactly one of `from_model`, `files` and `path` says of what.

    `template` and `system`: None keeps what is inherited, "" drops it.
    """

    name: ModelName
    from_model: ModelName | None = None
    files: dict[str, str] = {}  # relative file name -> digest of an uploaded blob
    path: Path | None = None  # a GGUF file of this machine, or a directory with safetensors, ONNX or GGUF
    adapters: dict[str, str] = {}  # as `files`
    adapter_paths: tuple[Path, ...] = ()  # GGUF files or directories with safetensors of this machine
    template: str | None = None
    system: str | None = None
    parameters: dict[str, Any] = {}  # checked: see check_parameters
    licenses: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    requires: str = ""
    renderer: str = ""
    parser: str = ""
    info: dict[str, Any] = {}  # fields of ImageConfig: see image.check_info
    quantize: str = ""
    shown: str = ""  # what errors call the files, where they were not uploaded
    notes: dict[str, str] = {}  # annotations of the layer that stands for the checkpoint

    @property
    def warnings(self) -> list[str]:
        """What is kept but does not do what its author may expect."""
        found = [f"parameter {key} is deprecated" for key in self.parameters if key in DEPRECATED]
        names = {"renderer": self.renderer, "parser": self.parser}
        return found + [
            f"{kind} {name} is kept, and has no effect on this server" for kind, name in names.items() if name
        ]


def check_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` with each value in its option's type, nulls left out; a bare `stop` becomes a list.

    Raises BadRequest naming the first that is unknown or of another type.
    """
    checked: dict[str, Any] = {}
    for key, value in parameters.items():
        if key not in OPTIONS:
            raise BadRequest(f"unknown parameter '{key[:80]}'")
        if value is not None:
            checked[key] = _check_parameter(key, value)
    return checked


def _check_parameter(key: str, value: Any) -> Any:
    listed = [value] if OPTIONS[key] is Kind.STRINGS and isinstance(value, str) else value
    try:
        return check_option(key, listed)
    except OptionError as error:
        raise BadRequest(str(error)) from error


def spec_from_modelfile(
    name: ModelName, modelfile: Modelfile, base_dir: Path | None = None, quantize: str = ""
) -> CreateSpec:
    """The spec that `modelfile` describes; relative paths in it start at `base_dir`.

    FROM is a path of this machine, an uploaded blob (`@sha256:<hex>`) or the name of a model. Raises BadRequest.
    """
    if modelfile.values("draft"):
        raise BadRequest("DRAFT is not supported yet; it comes with a later version")
    sources = modelfile.values("model")
    if len(sources) > 1:
        raise BadRequest(f"FROM {sources[1]}: a second FROM is not supported yet; projectors come with a later version")
    spec = CreateSpec(
        name=name,
        template=_last(modelfile.values("template")),
        system=_last(modelfile.values("system")),
        parameters=_parameters(modelfile),
        licenses=tuple(modelfile.values("license")),
        messages=tuple(Message(role, text) for role, text in modelfile.messages()),
        requires=check_requires(_last(modelfile.values("requires")) or ""),
        renderer=_last(modelfile.values("renderer")) or "",
        parser=_last(modelfile.values("parser")) or "",
        quantize=quantize,
    )
    fields = _source(sources[0], base_dir) | _adapters(modelfile.values("adapter"), base_dir)
    return msgspec.structs.replace(spec, **fields)


def _last(values: list[str]) -> str | None:
    return values[-1] if values else None


def _parameters(modelfile: Modelfile) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, text in modelfile.parameters():
        value = parse_parameter(key, text)
        values[key] = (*values.get(key, ()), *value) if isinstance(value, tuple) else value
    return values


def check_requires(version: str) -> str:
    """`version`, where it is empty or a version. Raises BadRequest."""
    if version and not _SEMVER.fullmatch(version):
        raise BadRequest("requires must be a valid semver (e.g. 0.14.0)")
    return version


def _source(argument: str, base_dir: Path | None) -> dict[str, Any]:
    """The field of CreateSpec that FROM fills, with its value."""
    if blob := _BLOB.fullmatch(argument):
        return {"files": {"model.gguf": blob[1]}}
    path = _path("FROM", argument, base_dir)
    if path is not None:
        return {"path": path}
    try:
        return {"from_model": parent_name(argument)}
    except InvalidName:
        raise BadRequest(f"FROM {argument[:200]!r} is neither a file of this machine nor a model's name") from None


def parent_name(text: str) -> ModelName:
    """The name after FROM. Raises InvalidName, Forbidden where the model runs on somebody else's machine."""
    base, origin = names.split_origin(text)
    if origin is names.Origin.CLOUD:
        raise Forbidden("ollama cloud is disabled: remote model is unavailable")
    return names.parse(base)


def _adapters(arguments: list[str], base_dir: Path | None) -> dict[str, Any]:
    """The fields of CreateSpec that ADAPTER fills, with their values."""
    adapters: dict[str, str] = {}
    paths: list[Path] = []
    for argument in arguments:
        if blob := _BLOB.fullmatch(argument):
            adapters[f"adapter-{len(adapters)}.gguf"] = blob[1]
        elif path := _path("ADAPTER", argument, base_dir):
            paths.append(path)
        else:
            raise BadRequest(f"ADAPTER {argument[:200]!r} is no file of this machine")
    return {"adapters": adapters, "adapter_paths": tuple(paths)}


def _path(word: str, argument: str, base_dir: Path | None) -> Path | None:
    """The file or directory that the instruction `word` means; None where it means none.

    Raises BadRequest where it can mean nothing else.
    """
    path = _expanded(argument, base_dir)
    if path is not None and _kind(path):
        return path
    if not _is_path(argument):
        return None
    shown = f"{word} {argument[:200]}"
    if path is None:
        raise BadRequest(f"{shown}: a relative path needs a Modelfile on this machine; use an absolute one")
    raise BadRequest(f"{shown}: no such file on the machine that the daemon runs on")


def _is_path(argument: str) -> bool:
    """Whether it cannot be a model's name."""
    return argument.startswith(("/", "~", "./", "../")) or argument in (".", "..")


def _kind(path: Path) -> str:
    """What is there: a file, a directory, or the empty text for what cannot be found."""
    try:
        return "file" if path.is_file() else "directory" if path.is_dir() else ""
    except OSError:  # no permission, or a name that no file can have
        return ""


def _expanded(argument: str, base_dir: Path | None) -> Path | None:
    if "\0" in argument:
        return None
    try:
        path = Path(argument).expanduser()
    except RuntimeError:  # no such user
        return None
    if path.is_absolute():
        return path
    return base_dir / path if base_dir is not None else None
