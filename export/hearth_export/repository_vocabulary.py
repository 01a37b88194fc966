"""The vocabulary of a repository without tokenizer.json, in GGUF's words: from tokenizer.model, vocab.json with
merges.txt, or vocab.txt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from hearth_export.errors import UnsupportedModel
from hearth_export.readers.values import MetaArray, Value
from hearth_export.repository_files import RepositoryFiles
from hearth_export.sentencepiece import BPE, UNIGRAM, Piece, SentencePiece, read_sentencepiece
from hearth_export.tokenizer_keys import (
    CONTROL,
    MAX_TOKENS,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)

PREFIX = "tokenizer.ggml."
MODEL = "tokenizer.model"
FAIRSEQ_MODEL = "sentencepiece.bpe.model"  # of XLM-RoBERTa, whose ids are not the file's
# how transformers' classes split words that have no tokenizer.json, and what they put around a text
BYTE_LEVEL_CLASSES = {
    "GPT2Tokenizer": ("gpt-2", False),
    "CodeGenTokenizer": ("gpt-2", False),
    "RobertaTokenizer": ("gpt-2", True),
    "Qwen2Tokenizer": ("qwen2", False),
}
WORD_PIECE_TOKENS = {  # of transformers' class for vocab.txt, where nothing names others
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
SPECIAL_KEYS = {  # in tokenizer_config.json -> in GGUF
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}


class Tokens(msgspec.Struct):
    """Tokens by id, a gap is None."""

    texts: list[str | None]
    types: list[int]
    scores: list[float]

    def put(self, index: int, text: str, kind: int, score: float = 0.0) -> None:
        """Adds a token, or gives the one of this id another text and type. ValueError for an absurd id."""
        if not 0 <= index < MAX_TOKENS:
            raise ValueError(f"the token {ascii(text)[:64]} has the id {index}; {MAX_TOKENS} tokens are possible")
        missing = index + 1 - len(self.texts)
        if missing > 0:
            self.texts += [None] * missing
            self.types += [UNUSED] * missing
            self.scores += [-1000.0] * missing
        self.texts[index], self.types[index], self.scores[index] = text, kind, score

    def ids(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.texts) if text is not None}

    def entries(self, *, scores: bool) -> dict[str, Value]:
        """The arrays of GGUF; a gap is a token without use."""
        texts = [f"[PAD{index}]" if text is None else text for index, text in enumerate(self.texts)]
        found: dict[str, Value] = {
            f"{PREFIX}tokens": MetaArray.of(f"{PREFIX}tokens", texts),
            f"{PREFIX}token_type": MetaArray.of(f"{PREFIX}token_type", np.array(self.types, "<i4")),
        }
        if scores:
            found[f"{PREFIX}scores"] = MetaArray.of(f"{PREFIX}scores", np.array(self.scores, "<f4"))
        return found


def vocabulary_of_files(files: RepositoryFiles) -> dict[str, Value]:
    """The `tokenizer.*` keys. UnsupportedModel where the repository has no vocabulary of a known form."""
    for name in (MODEL, FAIRSEQ_MODEL):
        raw = files.read_file(name)
        if raw is not None:
            return _sentencepiece(files, name, raw)
    names = ("vocab.json", "merges.txt", "vocab.txt")
    vocab, merges, words = (files.read_file(name) for name in names)
    if vocab is not None and merges is not None:
        return _byte_level(files, vocab, merges)
    if words is not None:
        return _word_pieces(files, words)
    raise UnsupportedModel(
        f"{files.path}: there is no tokenizer.json, {MODEL}, vocab.json with merges.txt, or vocab.txt"
    )


# -- tokenizer.model ---------------------------------------------------------------------------------------------------


def _sentencepiece(files: RepositoryFiles, name: str, raw: bytes) -> dict[str, Value]:
    try:
        model = read_sentencepiece(raw)
    except ValueError as error:
        raise files.bad(name, str(error)) from None
    if name == FAIRSEQ_MODEL:
        model = _fairseq(model)
    tokens = Tokens([], [], [])
    for index, piece in enumerate(model.pieces):
        tokens.put(index, piece.text, piece.type, piece.score)
    return sentencepiece_entries(files, name, model, tokens) | marks(files, tokens, _own_ids(model))


def sentencepiece_entries(files: RepositoryFiles, name: str, model: SentencePiece, tokens: Tokens) -> dict[str, Value]:
    """What the model file says of itself, and the tokens with those added beside it."""
    if model.model_type not in (UNIGRAM, BPE):
        raise UnsupportedModel(f"{files.path}: {name}: words or characters of SentencePiece cannot be converted")
    if model.treat_whitespace_as_suffix:
        raise UnsupportedModel(f"{files.path}: {name}: spaces at the end of words cannot be converted")
    if model.model_type == BPE and model.charsmap:
        raise UnsupportedModel(f"{files.path}: {name}: BPE that rewrites characters first cannot be converted")
    add_added(files, tokens)
    found: dict[str, Value] = {
        f"{PREFIX}model": "t5" if model.model_type == UNIGRAM else "llama",
        f"{PREFIX}pre": "default",
        f"{PREFIX}add_space_prefix": model.add_dummy_prefix,
        **tokens.entries(scores=True),
    }
    if model.model_type == UNIGRAM:
        found[f"{PREFIX}remove_extra_whitespaces"] = model.remove_extra_whitespaces
        if model.charsmap:
            charsmap = np.frombuffer(model.charsmap, np.uint8)
            found[f"{PREFIX}precompiled_charsmap"] = MetaArray.of(f"{PREFIX}precompiled_charsmap", charsmap)
    return found


def _own_ids(model: SentencePiece) -> dict[str, int]:
    ids = {"bos": model.bos_id, "eos": model.eos_id, "unknown": model.unk_id, "padding": model.pad_id}
    return {name: index for name, index in ids.items() if 0 <= index < len(model.pieces)}


def _fairseq(model: SentencePiece) -> SentencePiece:
    """XLM-RoBERTa's order: four special tokens, the file's pieces from its fourth on, the mask."""
    pieces = [
        Piece("<s>", 0.0, CONTROL),
        Piece("<pad>", 0.0, CONTROL),
        Piece("</s>", 0.0, CONTROL),
        Piece("<unk>", 0.0, UNKNOWN),
        *model.pieces[3:],
        Piece("<mask>", 0.0, CONTROL),
    ]
    return msgspec.structs.replace(model, pieces=pieces, bos_id=0, pad_id=1, eos_id=2, unk_id=3)


# -- vocab.json, merges.txt, vocab.txt ---------------------------------------------------------------------------------


def _byte_level(files: RepositoryFiles, vocab: bytes, merges: bytes) -> dict[str, Value]:
    known = BYTE_LEVEL_CLASSES.get(files.tokenizer_class)
    if known is None:
        raise UnsupportedModel(
            f"{files.path}: there is no tokenizer.json, and how '{files.tokenizer_class[:64]}' splits words "
            f"(tokenizer_class of tokenizer_config.json) is not known: {', '.join(sorted(BYTE_LEVEL_CLASSES))} are"
        )
    try:
        ids = msgspec.json.decode(vocab, type=dict[str, int])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise files.bad("vocab.json", f"is damaged: {error}") from error
    tokens = Tokens([], [], [])
    _put_all(files, "vocab.json", tokens, ids)
    add_added(files, tokens)
    lines = _lines(files, "merges.txt", merges)
    pairs = [line for line in lines if line and not line.startswith("#version")]
    pre, frames = known
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": pre,
        **tokens.entries(scores=False),
        f"{PREFIX}merges": MetaArray.of(f"{PREFIX}merges", pairs),
        **marks(files, tokens, {}, frames=frames),
    }


def _word_pieces(files: RepositoryFiles, words: bytes) -> dict[str, Value]:
    texts = _lines(files, "vocab.txt", words)
    while texts and not texts[-1]:
        texts.pop()
    ids = {text: index for index, text in enumerate(texts)}
    if len(ids) != len(texts):
        raise files.bad("vocab.txt", "a line stands twice")
    tokens = Tokens([], [], [])
    _put_all(files, "vocab.txt", tokens, ids)
    add_added(files, tokens)
    own = {}
    for name, text in WORD_PIECE_TOKENS.items():
        if files.text_of(name) is None and text in ids:
            tokens.types[ids[text]] = CONTROL
            own[SPECIAL_KEYS[name]] = ids[text]
    lowercase = files.flag("do_lower_case", True)
    return word_piece_entries(tokens, lowercase, files.flag("strip_accents", lowercase)) | marks(files, tokens, own)


def word_piece_entries(tokens: Tokens, lowercase: bool, strip_accents: bool) -> dict[str, Value]:
    """WordPiece in GGUF's spelling: what begins a word is marked, not what goes on with one."""
    spelt = [
        text if text is None or kind != NORMAL else text[2:] if text.startswith("##") else SPACE + text
        for text, kind in zip(tokens.texts, tokens.types, strict=True)
    ]
    return {
        f"{PREFIX}model": "bert",
        f"{PREFIX}pre": "default",
        f"{PREFIX}normalizer.lowercase": lowercase,
        f"{PREFIX}normalizer.strip_accents": strip_accents,
        **Tokens(spelt, tokens.types, tokens.scores).entries(scores=False),
    }


def _lines(files: RepositoryFiles, name: str, raw: bytes) -> list[str]:
    try:
        return [line.removesuffix("\r") for line in raw.decode("utf-8").split("\n")]
    except UnicodeDecodeError:
        raise files.bad(name, "is not UTF-8") from None


def _put_all(files: RepositoryFiles, name: str, tokens: Tokens, ids: Mapping[str, int]) -> None:
    try:
        for text, index in ids.items():
            tokens.put(index, text, NORMAL)
    except ValueError as error:
        raise files.bad(name, str(error)) from None


# -- special tokens ----------------------------------------------------------------------------------------------------


def add_added(files: RepositoryFiles, tokens: Tokens) -> None:
    """Tokens beside the vocabulary, and the types of those in it that are special."""
    added = [(index, token["content"], bool(token.get("special"))) for index, token in files.added_tokens().items()]
    put_added(files, tokens, added)
    ids = tokens.ids()
    for name in SPECIAL_KEYS:
        index = ids.get(files.text_of(name) or "")
        if index is not None and tokens.types[index] == NORMAL:
            tokens.types[index] = CONTROL


def put_added(files: RepositoryFiles, tokens: Tokens, added: Sequence[tuple[int, str, bool]]) -> None:
    """Tokens of which id, text and whether they are special is known. Types of byte tokens and the unknown one stay."""
    try:
        for index, text, special in added:
            known = index < len(tokens.types) and tokens.texts[index] == text
            if known and tokens.types[index] not in (NORMAL, UNUSED):
                continue
            tokens.put(index, text, CONTROL if special else USER_DEFINED, tokens.scores[index] if known else 0.0)
    except ValueError as error:
        raise files.bad("tokenizer_config.json", str(error)) from None


def marks(files: RepositoryFiles, tokens: Tokens, own: Mapping[str, int], *, frames: bool = False) -> dict[str, Value]:
    """Ids of special tokens, what is put around a text, and the chat template. `own` are the vocabulary's own ids;
    with `frames` bos and eos are put around a text where nothing says otherwise."""
    ids = tokens.ids()
    found: dict[str, Value] = {f"{PREFIX}{name}_token_id": index for name, index in own.items()}
    for name, key in SPECIAL_KEYS.items():
        text = files.text_of(name)
        if text is not None and text in ids:
            found[f"{PREFIX}{key}_token_id"] = ids[text]
    for name in ("bos", "eos"):
        asked = files.adds(name)
        if asked is None and (frames or f"add_{name}_token" in files.config):
            asked = files.flag(f"add_{name}_token", frames)
        if asked is not None and f"{PREFIX}{name}_token_id" in found:
            found[f"{PREFIX}add_{name}_token"] = asked
    return found | other_marks(files, found, ids)


def other_marks(files: RepositoryFiles, found: Mapping[str, Value], ids: Mapping[str, int]) -> dict[str, Value]:
    """A second end of a turn, the number of token types, the chat template."""
    marked: dict[str, Value] = {}
    ends = sorted(files.end_ids(len(ids)) - {found.get(f"{PREFIX}eos_token_id")})
    if f"{PREFIX}eos_token_id" not in found and ends:
        marked[f"{PREFIX}eos_token_id"] = ends.pop(0)
    if ends:
        marked[f"{PREFIX}eot_token_id"] = ends[0]
    num_types = files.model_config.get("type_vocab_size")
    if isinstance(num_types, int) and 0 < num_types < 1 << 16:
        marked[f"{PREFIX}token_type_count"] = num_types
    template = files.chat_template()
    if template is not None:
        marked["tokenizer.chat_template"] = template
    return marked
