"""The model of a tokenizer.json, checked without the tokenizers library: there a vocabulary of 2**18 tokens takes more
memory than a conversion may."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hearth_export.tokenizer_keys import MAX_TOKENS

MAX_MERGES = 1 << 22


class Model(msgspec.Struct):
    """A model of any kind. What is missing here is for the library to read."""

    type: str = "BPE"  # old files do not say
    vocab: dict[str, int] | list[tuple[str, float]] = {}
    merges: list[msgspec.Raw] = []
    unk_token: str | None = None
    unk_id: int | None = None
    ignore_merges: bool = False
    byte_fallback: bool = False
    continuing_subword_prefix: str | None = None

    def ids(self) -> dict[str, int]:
        if isinstance(self.vocab, dict):
            return self.vocab
        return {text: index for index, (text, _) in enumerate(self.vocab)}

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The merges one by one. ValueError where one is no pair."""
        for raw in self.merges:
            merge = _merge.decode(raw)
            pair = tuple(merge.split(" ")) if isinstance(merge, str) else merge
            if len(pair) != 2:
                raise ValueError(f"the merge {ascii(merge)[:64]} is no pair")
            yield pair[0], pair[1]


_merge = msgspec.json.Decoder(str | tuple[str, str])


def read_model(raw: msgspec.Raw) -> Model:
    """ValueError tells where tokens, merges or the unknown token contradict each other."""
    model = msgspec.json.decode(raw, type=Model)
    ids = model.ids()
    if len(ids) < len(model.vocab):
        raise ValueError("two tokens have the same text")
    last = max(ids.values(), default=-1)
    if last >= MAX_TOKENS or min(ids.values(), default=0) < 0:
        text = next(text for text, index in ids.items() if not 0 <= index < MAX_TOKENS)
        raise ValueError(f"the token {ascii(text)[:64]} has the id {ids[text]}; {MAX_TOKENS} tokens are possible")
    if len(set(ids.values())) < len(ids):
        raise ValueError("two tokens have the same id")
    if model.type == "WordPiece" and model.unk_token not in ids:
        raise ValueError(f"unk_token {ascii(model.unk_token)[:64]} is no token")
    if isinstance(model.vocab, list) and not 0 <= (model.unk_id or 0) < len(model.vocab):
        raise ValueError(f"unk_id {model.unk_id} is not one of the {len(model.vocab)} tokens")
    _check_merges(model, ids)
    return model


def _check_merges(model: Model, ids: dict[str, int]) -> None:
    if len(model.merges) > MAX_MERGES:
        raise ValueError(f"{len(model.merges)} merges; {MAX_MERGES} are possible")
    skipped = len(model.continuing_subword_prefix or "")
    for left, right in model.pairs():
        if left not in ids or right not in ids or left + right[skipped:] not in ids:
            raise ValueError(f"the merge {ascii((left, right))[:64]} does not join two tokens to a third")


def without_vocabulary(raw: msgspec.Raw, kind: str) -> dict[str, object]:
    """The model with hardly any tokens, for the library to tell what it thinks of the rest."""
    fields: dict[str, object] = dict(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    if kind == "Unigram":
        return fields | {"vocab": [("<unk>", 0.0)], "unk_id": 0}
    return fields | {"vocab": {}} | ({"merges": []} if "merges" in fields else {})
