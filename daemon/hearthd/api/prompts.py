"""What a model's prompt is made of: its chat template and the special tokens that it may name."""

from __future__ import annotations

import functools
import mmap
from pathlib import Path
from typing import Any

import msgspec

from hearthd.api.opening import Opened
from hearthd.api.services import Services
from hearthd.prompt.render import Specials, Turn, render
from hearthd.store.store import ModelStore
from hearthd.store.variant import SourceInfo, VariantInfo

_BOS_KEY, _EOS_KEY = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"


class _AddedToken(msgspec.Struct, frozen=True):
    id: int
    content: str


class _Tokenizer(msgspec.Struct, frozen=True):
    added_tokens: list[_AddedToken] = []


_decoder = msgspec.json.Decoder(_Tokenizer)


class Template(msgspec.Struct, frozen=True):
    """Turns into prompts, the model's way. `text` is None where the checkpoint has no template of its own."""

    text: str | None
    specials: Specials

    def render(self, turns: list[Turn]) -> str:
        """The prompt. BadRequest where the template refuses the conversation."""
        return render(turns, self.text, self.specials)


def template_of(services: Services, opened: Opened) -> Template:
    """The model's template; the model must have been converted, as it is once it is loaded."""
    return _read(services.store, opened.contents.model_digest)


@functools.lru_cache(maxsize=8)
def _read(store: ModelStore, digest: str) -> Template:
    source = store.source_info(digest)
    variants = store.variants(digest)
    if source is None or not variants:
        return Template(None, Specials())
    return Template(source.chat_template, _specials(source, *variants[0]))


def _specials(source: SourceInfo, directory: Path, info: VariantInfo) -> Specials:
    texts: dict[Any, str] = {token.id: token.content for token in _added_tokens(directory / info.tokenizer)}
    return Specials(
        bos=texts.get(source.metadata.get(_BOS_KEY), ""),
        eos=texts.get(source.metadata.get(_EOS_KEY), ""),
        adds_bos=info.add_bos,
    )


def _added_tokens(path: Path) -> list[_AddedToken]:
    """The special tokens in a tokenizer.json of many MiB, without reading the rest into memory."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            memoryview(data) as view,
        ):
            return _decoder.decode(view).added_tokens
    except (OSError, ValueError, msgspec.DecodeError):  # a damaged variant is the runner's to refuse
        return []
