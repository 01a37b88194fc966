"""Model names: `[scheme://][host/][namespace/]model[:tag]`.

    part        length   characters, the first of which is a letter, a digit or `_`
    host        1-350    letters, digits, `_`, `-`, `.`, `:`     (default registry.ollama.ai)
    namespace   1-80     letters, digits, `_`, `-`               (default library)
    model       1-80     letters, digits, `_`, `-`, `.`
    tag         1-80     letters, digits, `_`, `-`, `.`          (default latest)

Letters and digits are ASCII. A name is read from the right: the tag is what follows the last `:` if
that comes after the last `/`; the model follows the last `/`, then the namespace; the rest is the host.
A separator promises a part, so `x:` is invalid. No part can be `.` or `..`, start with a dot or hold a
`/`: a name never leads out of the store.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

import msgspec

from hearthd.errors import InvalidName

DEFAULT_SCHEME = "https"
DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

# all parts at their longest, and a scheme
MAX_NAME_CHARS = 640

PART_PATTERNS = {
    "scheme": re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}"),
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}


class Parts(NamedTuple):
    """The parts as written; None where the text does not mention one."""

    scheme: str | None
    host: str | None
    namespace: str | None
    model: str
    tag: str | None


class ModelName(msgspec.Struct, frozen=True, order=True):
    """A complete, valid name. Two names that differ in case differ; the store looks them up ignoring case."""

    host: str
    namespace: str
    model: str
    tag: str
    scheme: str = DEFAULT_SCHEME

    @property
    def short(self) -> str:
        """The name as people see it: defaults left out, the tag always shown."""
        if self.host != DEFAULT_HOST:
            return self.full
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """`host/namespace/model:tag`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def path(self) -> tuple[str, str, str, str]:
        """The parts of the manifest's path below `manifests/`."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> tuple[str, ...]:
        """What names equal but for case have in common."""
        return tuple(part.lower() for part in self.path)

    def __str__(self) -> str:
        return self.short


def is_valid_part(kind: str, text: str) -> bool:
    """Whether `text` can stand as the part `kind`, a key of PART_PATTERNS."""
    return PART_PATTERNS[kind].fullmatch(text) is not None


def split(text: str) -> Parts:
    """The parts of `text` as written, each one valid. Raises InvalidName."""
    if len(text) > MAX_NAME_CHARS:
        raise InvalidName(text[:MAX_NAME_CHARS] + "...")
    rest, tag = text, None
    if text.rfind(":") > text.rfind("/"):
        rest, _, tag = text.rpartition(":")
    rest, namespaced, model = rest.rpartition("/")
    host_text, hosted, namespace = rest.rpartition("/")
    scheme, schemed, host = host_text.rpartition("://")
    parts = Parts(scheme if schemed else None, host if hosted else None, namespace if namespaced else None, model, tag)
    if not all(part is None or is_valid_part(kind, part) for kind, part in parts._asdict().items()):
        raise InvalidName(text)
    return parts


def parse(text: str) -> ModelName:
    """The name that `text` stands for, defaults filled in. Raises InvalidName."""
    parts = split(text)
    return ModelName(
        scheme=parts.scheme or DEFAULT_SCHEME,
        host=parts.host or DEFAULT_HOST,
        namespace=parts.namespace or DEFAULT_NAMESPACE,
        model=parts.model,
        tag=parts.tag or DEFAULT_TAG,
    )


def from_path(parts: tuple[str, ...]) -> ModelName | None:
    """The name of a manifest at `parts` below `manifests/`, or None where that is no model's place."""
    kinds = ("host", "namespace", "model", "tag")
    if len(parts) != len(kinds) or not all(map(is_valid_part, kinds, parts)):
        return None
    return ModelName(*parts)


class Origin(StrEnum):
    """Where a reference says that its model runs."""

    UNSPECIFIED = "unspecified"
    LOCAL = "local"
    CLOUD = "cloud"


def split_origin(text: str) -> tuple[str, Origin]:
    """`text` without a final `:cloud`, `:local` (any case) or a tag's final `-cloud`, and what that said.

    Raises InvalidName where what is left ends in such a mark again.
    """
    base, origin = _cut_origin(text.strip())
    if origin is not Origin.UNSPECIFIED and _cut_origin(base)[1] is not Origin.UNSPECIFIED:
        raise InvalidName(text)
    return base, origin


def is_cloud(text: str) -> bool:
    """Whether `text` names a model that would run on somebody else's machine."""
    return _cut_origin(text.strip())[1] is Origin.CLOUD


def _cut_origin(text: str) -> tuple[str, Origin]:
    base, colon, suffix = text.rpartition(":")
    mark = suffix.lower()
    if colon and mark in (Origin.CLOUD, Origin.LOCAL):
        return base, Origin(mark)
    if colon and "/" not in mark and mark.endswith("-cloud"):
        return text[: -len("-cloud")], Origin.CLOUD
    return text, Origin.UNSPECIFIED
