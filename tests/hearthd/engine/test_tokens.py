from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as TokenizerFile

from hearthd.engine.tokens import Detokenizer, EmptyText, TextTooLong, Tokenizer, UnknownToken, encode_all
from hearthd.store.variant import VariantInfo
from tests.variant_info import variant_info

TEXTS = [
    "hello world",
    "  two  spaces ",
    "caf\u00e9",
    "\U0001f44d\U0001f3fd ok",
    "\u65e5\u672c\u8a9e\n\ttab",
    "e\u0301",
    "",
]


def info(**fields: Any) -> VariantInfo:
    return variant_info(**fields)


def byte_level(path: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    file = TokenizerFile(models.BPE(vocab=vocabulary, merges=[]))
    file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    file.decoder = decoders.ByteLevel()
    file.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    file.add_tokens([AddedToken("<tool>", special=False)])
    file.save(str(path))
    return path


def sentencepiece(path: Path) -> Path:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"helowrd"]
    file = TokenizerFile(
        models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    file.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(Regex(" "), "\u2581")])
    file.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    file.add_special_tokens(["<s>", "</s>"])
    file.save(str(path))
    return path


@pytest.fixture
def bytes_path(tmp_path: Path) -> Path:
    return byte_level(tmp_path / "tokenizer.json")


@pytest.fixture
def pieces_path(tmp_path: Path) -> Path:
    return sentencepiece(tmp_path / "tokenizer.json")


def detokenized(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [detokenizer.add(token) for token in ids]


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_text_comes_back_whole(bytes_path: Path, text: str) -> None:
    tokenizer = Tokenizer(bytes_path, info())
    ids = tokenizer.encode(text)
    assert "".join(detokenized(tokenizer, ids)) == text
    assert tokenizer.text_of(ids) == text


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_text_of_encodes_to_the_same_ids(pieces_path: Path, text: str) -> None:
    tokenizer = Tokenizer(pieces_path, info(bos_id=1, add_bos=True))
    ids = tokenizer.encode(text)
    assert tokenizer.encode(tokenizer.text_of(ids)) == ids


def test_a_sentencepiece_continuation_keeps_the_space_of_its_first_piece(pieces_path: Path) -> None:
    tokenizer = Tokenizer(pieces_path, info())
    ids = tokenizer.encode_plain("hello")
    assert "".join(detokenized(tokenizer, ids)) == " hello"
    assert tokenizer.text_of(ids) == "hello"


def test_a_character_is_shown_only_when_its_last_byte_came(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info())
    assert detokenized(tokenizer, tokenizer.encode_plain("\U0001f44d!")) == ["", "", "", "\U0001f44d", "!"]


def test_bytes_that_cannot_be_utf8_become_replacements(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info())
    first_byte = tokenizer.encode_plain("\U0001f44d")[0]
    letter = tokenizer.encode_plain("a")[0]
    assert detokenized(tokenizer, [first_byte, letter]) == ["", "\ufffda"]


def test_byte_fallback_pieces_join_to_one_character(pieces_path: Path) -> None:
    tokenizer = Tokenizer(pieces_path, info())
    pieces = detokenized(tokenizer, tokenizer.encode_plain("\u65e5"))
    assert [piece for piece in pieces if piece.strip()] == ["\u65e5"]


def test_special_tokens_print_nothing_and_user_defined_ones_print(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info())
    ids = tokenizer.encode_plain("<s>a<tool>b</s>")
    assert len(ids) == 5
    assert "".join(detokenized(tokenizer, ids)) == "a<tool>b"
    assert tokenizer.text_of(ids) == "<s>a<tool>b</s>"


@pytest.mark.parametrize("repeats", [1, 10, 500, 5000])
def test_of_a_text_of_many_windows_both_ends_are_those_of_the_whole(bytes_path: Path, repeats: int) -> None:
    tokenizer = Tokenizer(bytes_path, info())
    text = "".join(f"{n} bottles " for n in range(repeats))
    whole, within = tokenizer.encode(text), tokenizer.encode_within(text, num_ctx=16)
    assert (within[:16], within[-16:]) == (whole[:16], whole[-16:])
    assert len(within) <= max(2 * 16 * 16, 14 * 2 * 16)
    assert len(within) >= min(len(whole), 32)


def test_bos_is_added_once(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info(bos_id=256, add_bos=True))
    assert tokenizer.encode("a") == tokenizer.encode("<s>a")
    assert tokenizer.encode("a")[0] == 256
    assert tokenizer.encode("") == [256]


def test_eos_is_added_where_the_model_adds_it(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info(eos_ids=[257], add_eos=True))
    assert tokenizer.encode("a")[-1] == 257


def test_an_id_beyond_the_tokens_of_a_padded_vocabulary_prints_nothing(bytes_path: Path) -> None:
    assert Tokenizer(bytes_path, info()).token_bytes(5000) == b""


@pytest.mark.parametrize("token", [-1, 100_000])
def test_an_unknown_id_is_refused_naming_it(bytes_path: Path, token: int) -> None:
    with pytest.raises(UnknownToken, match=str(token)):
        Tokenizer(bytes_path, info()).text_of([0, token])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", json.dumps({"model": {"type": "none"}}).encode()])
def test_a_damaged_file_is_refused_naming_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a readable"):
        Tokenizer(path, info())


def test_special_tokens_are_spelt_out_where_asked(tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_level(tmp_path / "tokenizer.json"), info())
    [special] = tokenizer.encode_plain("</s>")
    [plain] = tokenizer.encode_plain("x")
    assert (tokenizer.token_bytes(special), tokenizer.spelt(special)) == (b"", b"</s>")
    assert tokenizer.spelt(plain) == b"x"
    assert tokenizer.spelt(10**6) == b""


def test_special_finds_special_tokens_alone(tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_level(tmp_path / "tokenizer.json"), info())
    [special] = tokenizer.encode_plain("</s>")
    assert tokenizer.special(["</s>", "<tool>", "x", "nowhere", ""]) == {special: b"</s>"}


def test_visible_special_tokens_are_printed(tmp_path: Path) -> None:
    tokenizer = Tokenizer(byte_level(tmp_path / "tokenizer.json"), info())
    ids = tokenizer.encode_plain("<s>a</s>b<tool>")
    detokenizer = Detokenizer(tokenizer, ["</s>"])
    assert "".join(map(detokenizer.add, ids)) == "a</s>b<tool>"


@pytest.mark.parametrize("write", [byte_level, sentencepiece])
def test_newline_ids_are_those_that_print_a_line_feed_alone(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    tokenizer = Tokenizer(write(tmp_path / "tokenizer.json"), info())
    known = range(300)
    assert list(tokenizer.newline_ids) == [token for token in known if tokenizer.token_bytes(token) == b"\n"]
    assert len(tokenizer.newline_ids) == 1


# texts to embed


def framed(path: Path) -> Path:
    """A vocabulary whose own post-processor puts [CLS] and [SEP] around a text, as those of encoders do."""
    file = TokenizerFile.from_file(str(byte_level(path)))
    file.add_special_tokens(["[CLS]", "[SEP]"])
    ends = [(name, file.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    file.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    file.save(str(path))
    return path


LONG = "abc" * 2000  # many windows


@pytest.mark.parametrize("text", ["abcdefgh", LONG])
def test_a_text_to_embed_loses_its_end_and_keeps_its_frame(tmp_path: Path, text: str) -> None:
    tokenizer = Tokenizer(framed(tmp_path / "tokenizer.json"), info())
    cls, sep = tokenizer.special(["[CLS]", "[SEP]"])
    plain = tokenizer.encode_plain(text[:8])
    assert tokenizer.encode_text(text, 6, truncate=True) == [cls, *plain[:4], sep]
    assert tokenizer.encode_text(text[:4], 6, truncate=False) == [cls, *plain[:4], sep]
    with pytest.raises(TextTooLong, match="the input length exceeds the context length"):
        tokenizer.encode_text(text, 6, truncate=False)


@pytest.mark.parametrize("text", ["abcdefgh", LONG])
def test_a_decoders_bos_and_eos_count_among_the_tokens_of_a_window(bytes_path: Path, text: str) -> None:
    bos, eos = 256, 257
    tokenizer = Tokenizer(bytes_path, info(bos_id=bos, add_bos=True, eos_ids=[eos], add_eos=True))
    plain = tokenizer.encode_plain(text[:8])
    assert tokenizer.encode_text(text, 6, truncate=True) == [bos, *plain[:4], eos]
    assert tokenizer.encode_text("<s>" + text, 6, truncate=True) == [bos, *plain[:4], eos]
    assert tokenizer.encode_text(text[:4], 6, truncate=False) == [bos, *plain[:4], eos]
    with pytest.raises(TextTooLong):
        tokenizer.encode_text(text, 6, truncate=False)


def test_a_text_that_fills_the_window_is_not_too_long(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info())
    assert len(tokenizer.encode_text("abcdef", 6, truncate=False)) == 6


def test_ids_are_taken_as_they_are_and_cut_only_where_that_is_allowed(bytes_path: Path) -> None:
    tokenizer = Tokenizer(bytes_path, info(bos_id=256, add_bos=True))
    assert encode_all(tokenizer, [[5, 6, 7]], 2, truncate=True) == [[5, 6]]
    with pytest.raises(TextTooLong):
        encode_all(tokenizer, [[5, 6, 7]], 2, truncate=False)
    with pytest.raises(UnknownToken, match="input: token id 300 is not below the vocabulary size 259"):
        encode_all(tokenizer, [[5, 300]], 2, truncate=True)


def test_an_empty_text_is_the_frame_alone_or_the_token_that_begins_a_text(tmp_path: Path) -> None:
    encoder = Tokenizer(framed(tmp_path / "tokenizer.json"), info())
    assert encode_all(encoder, [""], 8, truncate=True) == [list(encoder.special(["[CLS]", "[SEP]"]))]
    for fields, expected in (({"bos_id": 256}, [256]), ({"eos_ids": [257, 3]}, [257])):
        decoder = Tokenizer(byte_level(tmp_path / "bytes.json"), info(**fields))
        assert encode_all(decoder, [""], 8, truncate=True) == [expected]
    with pytest.raises(EmptyText, match="empty text"):
        encode_all(Tokenizer(tmp_path / "bytes.json", info()), ["a", ""], 8, truncate=True)
