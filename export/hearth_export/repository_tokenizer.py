"""The tokenizer.json of a Hugging Face repository, taken as it is but for what serving must decide itself: padding and
truncation go, tokens that only tokenizer_config.json knows are added."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from hearth_export.charsmap import check_charsmap
from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.repository_files import TOKENIZER, RepositoryFiles
from hearth_export.repository_model import Model, read_model, without_vocabulary
from hearth_export.tokenizer_document import Part, added_token, steps, template
from hearth_export.tokenizer_keys import MAX_TOKENS

MAX_ADDED = 1 << 17


class Document(msgspec.Struct):
    """A tokenizer.json whose large parts stay text."""

    version: str = "1.0"
    truncation: None = None
    padding: None = None
    added_tokens: list[dict[str, Any]] = []
    normalizer: Part | None = None
    pre_tokenizer: Part | None = None
    post_processor: Part | None = None
    decoder: Part | None = None
    model: msgspec.Raw = msgspec.Raw(b"null")


class _Stored(Document):
    truncation: Any = None
    padding: Any = None


class Around(msgspec.Struct, frozen=True):
    """Ids that are put before and after a text."""

    before: list[int] = []
    after: list[int] = []


def read_document(files: RepositoryFiles, raw: bytes) -> Document:
    """BadCheckpoint where it is no tokenizer.json."""
    try:
        stored = msgspec.json.decode(raw, type=_Stored)
        added = [{**token, "id": int(token["id"]), "content": str(token["content"])} for token in stored.added_tokens]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise files.bad(TOKENIZER, f"is damaged: {type(error).__name__}: {error}") from error
    if len(added) > MAX_ADDED:
        raise files.bad(TOKENIZER, f"added_tokens has {len(added)} entries; {MAX_ADDED} are possible")
    known = {token["content"] for token in added}
    missing = {index: token for index, token in sorted(files.added_tokens().items()) if token["content"] not in known}
    return Document(
        added_tokens=added + [_complete(index, token) for index, token in missing.items()],
        normalizer=stored.normalizer,
        pre_tokenizer=stored.pre_tokenizer,
        post_processor=stored.post_processor,
        decoder=stored.decoder,
        model=stored.model,
    )


def _complete(index: int, token: dict[str, Any]) -> Part:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {**added_token(index, token["content"], special=False), **{key: bool(token.get(key)) for key in flags}}


class Loaded(msgspec.Struct):
    """A document that has been checked."""

    document: Document
    model: Model
    ids: dict[str, int]  # of tokens of the model and added ones
    num_tokens: int

    def id_of(self, text: str | None) -> int | None:
        return None if text is None else self.ids.get(text)

    def text_of(self, index: int | None) -> str:
        return next((text for text, found in self.ids.items() if found == index), "")


def load(files: RepositoryFiles, document: Document) -> Loaded:
    """BadCheckpoint where the document cannot be used, or gives a token another id than the library does."""
    _check_charsmaps(files, document)
    try:
        model = read_model(document.model)
        _try(document, model)
    except (ValueError, RecursionError) as error:  # DecodeError is a ValueError
        raise files.bad(TOKENIZER, f"cannot be used: {str(error)[:200]}") from None
    ids = model.ids()
    num_model, following = len(ids), len(ids)
    for token in document.added_tokens:
        text = token["content"]
        index = ids.setdefault(text, following)
        if index != token["id"]:
            raise files.bad(TOKENIZER, f"added token {ascii(text)[:64]} has the id {token['id']}, but becomes {index}")
        following = max(num_model, index + 1) if index >= num_model else following
    num_tokens = max(ids.values(), default=-1) + 1
    if not 0 < num_tokens <= MAX_TOKENS:
        raise files.bad(TOKENIZER, f"{num_tokens} tokens; 1 to {MAX_TOKENS} are possible")
    return Loaded(document, model, ids, num_tokens)


def _try(document: Document, model: Model) -> None:
    """ValueError where the library refuses what is beside the vocabulary."""
    from tokenizers import Tokenizer

    rest = msgspec.structs.asdict(document) | {
        "model": without_vocabulary(document.model, model.type),
        "added_tokens": [],
    }
    try:
        Tokenizer.from_buffer(msgspec.json.encode(rest))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error


def _check_charsmaps(files: RepositoryFiles, document: Document) -> None:
    """The library walks a damaged map out of its bounds when it meets a text, not before."""
    try:
        for step in steps(document.normalizer, "normalizers"):
            if step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
                check_charsmap(base64.b64decode(step["precompiled_charsmap"], validate=True))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise files.bad(TOKENIZER, f"normalizer is damaged: {error}") from None


def around(files: RepositoryFiles, document: Document) -> Around:
    """What the document puts around a single text. UnsupportedModel where it does more than put tokens there."""
    try:
        return _around(document.post_processor)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{files.path}: {TOKENIZER}: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{files.path}: {TOKENIZER}: post_processor is damaged: {error!r}") from None


def _around(part: Part | None) -> Around:
    kind = None if part is None else str(part["type"])
    if part is None or kind == "ByteLevel":
        return Around()
    if kind == "Sequence":
        found = [_around(step) for step in part["processors"]]
        return Around([index for one in found for index in one.before], [index for one in found for index in one.after])
    if kind in ("BertProcessing", "RobertaProcessing"):
        return Around([int(part["cls"][1])], [int(part["sep"][1])])
    if kind == "TemplateProcessing":
        return _around_template(part)
    raise UnsupportedModel(f"post_processor is of type {str(kind)[:64]!r}, which is not known")


def _around_template(part: Part) -> Around:
    found = Around([], [])
    side = found.before
    for step in part["single"]:
        if "Sequence" in step:
            side = found.after
        else:
            ids: Sequence[int] = part["special_tokens"][step["SpecialToken"]["id"]]["ids"]
            side.extend(int(index) for index in ids)
    return found


class Marks(msgspec.Struct, frozen=True):
    """The tokens that begin and end a text, and whether they are put around it."""

    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    add_eos: bool


def load_marked(files: RepositoryFiles, document: Document) -> tuple[Loaded, Marks]:
    """The tokenizer, and what it puts around a text after the word of tokenizer_config.json, where that counts.

    Raises BadCheckpoint and UnsupportedModel, as `load` and `around`, and for more than one token on a side.
    """
    found = around(files, document)
    loaded = load(files, document)
    begin, end = (_asked(files, loaded, name) for name in ("bos", "eos"))
    before = found.before if begin is None else begin
    after = found.after if end is None else end
    if len(before) > 1 or len(after) > 1:
        raise UnsupportedModel(
            f"{files.path}: {TOKENIZER}: {len(before)} tokens before and {len(after)} after a text, not one each"
        )
    for index in (*before, *after):
        if not 0 <= index < loaded.num_tokens:
            raise files.bad(TOKENIZER, f"post_processor adds the token {index} of {loaded.num_tokens}")
    if (before, after) != (found.before, found.after):
        texts = [{loaded.text_of(index): index for index in side} for side in (before, after)]
        document = msgspec.structs.replace(document, post_processor=template(*texts))
        loaded = msgspec.structs.replace(loaded, document=document)
    return loaded, Marks(
        bos_id=before[0] if before else loaded.id_of(files.text_of("bos_token")),
        eos_id=after[0] if after else loaded.id_of(files.text_of("eos_token")),
        add_bos=bool(before),
        add_eos=bool(after),
    )


def _asked(files: RepositoryFiles, loaded: Loaded, name: str) -> list[int] | None:
    """The token that the tokenizer's class adds; None where the document decides."""
    asked = files.adds(name)
    if asked is None:
        return None
    index = loaded.id_of(files.text_of(f"{name}_token"))
    if asked and index is None:
        raise files.bad("tokenizer_config.json", f"add_{name}_token is true, but there is no {name}_token")
    return [index] if asked and index is not None else []
