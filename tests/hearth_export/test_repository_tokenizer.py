from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers

from hearth_export.errors import BadCheckpoint, UnsupportedModel
from hearth_export.tokenizer import TokenizerFiles, build
from tests.hearth_export.charsmaps import charsmap
from tests.hearth_export.repositories import repository
from tests.hearth_export.tokenizing import encoder
from tests.hearth_export.tricky_texts import TRICKY, fuzzed

CORPUS = ["the quick brown fox jumps over the lazy dog and the other dog", "naïve café 日本語 12 345"]
SPECIALS = ["<s>", "</s>", "<|im_end|>", "<pad>"]  # ids 0 to 3


def document(**changes: Any) -> dict[str, Any]:
    """A tokenizer.json of byte-level BPE, as transformers would have saved it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIALS,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=3, pad_token="<pad>", length=16)
    loaded: dict[str, Any] = json.loads(tokenizer.to_str())
    return {**loaded, **changes}


CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "tokenizer_class": "PreTrainedTokenizerFast"}


def files(**changes: Any) -> dict[str, Any]:
    return {"tokenizer.json": document(), "tokenizer_config.json": CONFIG, **changes}


def built(path: Path, content: dict[str, Any]) -> TokenizerFiles:
    return build(repository(path / "model", content))


def test_tokenizer_json_gives_its_own_ids_without_padding_and_truncation(tmp_path: Path) -> None:
    own = Tokenizer.from_str(json.dumps(document(truncation=None, padding=None)))
    ours = encoder(built(tmp_path, files()), whole=True)
    for text in TRICKY + fuzzed(200, seed=31, pieces=SPECIALS):
        assert ours(text) == own.encode(text).ids


def test_special_tokens_are_those_of_the_post_processor_and_of_the_config(tmp_path: Path) -> None:
    found = built(tmp_path, files())
    assert (found.bos_id, found.add_bos, found.bos_token) == (0, True, "<s>")
    assert (found.eos_ids, found.add_eos, found.eos_token) == ([1, 2], False, "</s>")
    assert found.num_tokens == len(document()["model"]["vocab"])


def test_special_tokens_come_from_special_tokens_map_where_the_config_is_silent(tmp_path: Path) -> None:
    content = {"tokenizer.json": document(post_processor=None), "special_tokens_map.json": {"bos_token": "<pad>"}}
    found = built(tmp_path, content)
    assert (found.bos_id, found.add_bos, found.bos_token) == (3, False, "<pad>")
    assert found.eos_token == ""


def test_ends_are_those_of_the_generation_config_too(tmp_path: Path) -> None:
    plain = files(**{"generation_config.json": {"eos_token_id": [1, 77]}, "config.json": {"eos_token_id": 78}})
    assert built(tmp_path, plain).eos_ids == [1, 2, 77, 78]


def test_end_that_is_added_to_a_text_leads_the_ends(tmp_path: Path) -> None:
    sep = {"type": "RobertaProcessing", "sep": ["<|im_end|>", 2], "cls": ["<s>", 0], "trim_offsets": True,
           "add_prefix_space": False}  # fmt: skip
    found = built(tmp_path, files(**{"tokenizer.json": document(post_processor=sep)}))
    assert (found.add_bos, found.add_eos, found.eos_ids) == (True, True, [2, 1])
    assert encoder(found, whole=True)("") == [0, 2]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"tokenizer_class": "LlamaTokenizerFast"}, [0]),
        ({"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, []),
        ({"tokenizer_class": "GemmaTokenizer", "add_eos_token": True}, [0, 1]),
        ({"tokenizer_class": "GPTNeoXTokenizerFast"}, []),
        ({"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}, [0]),
    ],
)
def test_classes_that_add_tokens_themselves_decide(tmp_path: Path, config: dict[str, Any], expected: list[int]) -> None:
    found = built(tmp_path, files(**{"tokenizer_config.json": {**CONFIG, **config}}))
    assert encoder(found, whole=True)("") == expected
    assert (found.add_bos, found.add_eos) == (0 in expected, 1 in expected)


def test_processors_one_after_the_other_are_read_as_one(tmp_path: Path) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    both = {"type": "Sequence", "processors": [byte_level, document()["post_processor"]]}
    assert built(tmp_path, files(**{"tokenizer.json": document(post_processor=both)})).add_bos


def test_token_that_only_the_config_knows_is_parsed(tmp_path: Path) -> None:
    index = len(document()["model"]["vocab"])
    token = {"content": "<|tool|>", "special": True, "lstrip": False, "rstrip": True}
    config = {**CONFIG, "added_tokens_decoder": {"0": {"content": "<s>"}, str(index): token}}
    found = built(tmp_path, files(**{"tokenizer_config.json": config}))
    assert found.num_tokens == index + 1
    assert encoder(found)("<|tool|>  the")[0] == index


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"tokenizer_config.json": {**CONFIG, "chat_template": "A"}}, "A"),
        ({"tokenizer_config.json": {**CONFIG, "chat_template": "A"}, "chat_template.jinja": "B"}, "B"),
        ({"chat_template.json": {"chat_template": "C"}}, "C"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"},
                                                      {"name": "default", "template": "D"}]}}, "D"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"}]}}, "R"),
        ({}, None),
    ],
)  # fmt: skip
def test_chat_template_is_found_wherever_it_lies(tmp_path: Path, content: dict[str, Any], expected: str | None) -> None:
    assert built(tmp_path, files(**content)).chat_template == expected


# -- refused -----------------------------------------------------------------------------------------------------------


def two_before() -> dict[str, Any]:
    twice = processors.TemplateProcessing(single="<s> <pad> $A", special_tokens=[("<s>", 0), ("<pad>", 3)])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.post_processor = twice
    part: dict[str, Any] = json.loads(tokenizer.to_str())["post_processor"]
    return part


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        ({"tokenizer.json": "{"}, BadCheckpoint, "tokenizer.json: is damaged"),
        ({"tokenizer.json": "[]"}, BadCheckpoint, "tokenizer.json: is damaged"),
        ({"tokenizer.json": b"\xff\xfe"}, BadCheckpoint, "tokenizer.json: is damaged"),
        ({"tokenizer.json": "[" * 100000}, BadCheckpoint, "tokenizer.json: is damaged"),
        ({"tokenizer.json": {}}, BadCheckpoint, "tokenizer.json: cannot be used"),
        ({"tokenizer.json": document(model={"type": "Nonsense"})}, BadCheckpoint, "tokenizer.json: cannot be used"),
        ({"tokenizer.json": document(normalizer={"type": "Nonsense"})}, BadCheckpoint, "cannot be used"),
        ({"tokenizer.json": document(added_tokens=[{"id": "x"}])}, BadCheckpoint, "tokenizer.json: is damaged"),
        ({"tokenizer.json": document(post_processor={"type": "New"})}, UnsupportedModel, "'New', which is not known"),
        ({"tokenizer.json": document(post_processor={})}, BadCheckpoint, "post_processor is damaged"),
        ({"tokenizer.json": document(post_processor=two_before())}, UnsupportedModel, "2 tokens before and 0 after"),
        ({"tokenizer_config.json": "nonsense"}, BadCheckpoint, "tokenizer_config.json: is no JSON"),
        ({"tokenizer_config.json": "[]"}, BadCheckpoint, "tokenizer_config.json: is no JSON object"),
        ({"tokenizer_config.json": {"eos_token": 7}}, BadCheckpoint, "tokenizer_config.json: eos_token is no text"),
        ({"tokenizer_config.json": {"eos_token": "x" * 5000}}, BadCheckpoint, "eos_token is no text of at most"),
        ({"tokenizer_config.json": {"chat_template": 3}}, BadCheckpoint, "chat_template is neither"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"x": {}}}}, BadCheckpoint, "'x' is no token id"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"9": {}}}}, BadCheckpoint, "a token without content"),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"9999": {"content": "new"}}}}, BadCheckpoint,
         "added token 'new' has the id 9999, but becomes"),
        ({"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": 1}}, BadCheckpoint,
         "add_bos_token is neither true nor false"),
        ({"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}}, BadCheckpoint, "there is no bos_token"),
        ({"generation_config.json": {"eos_token_id": 1 << 40}}, BadCheckpoint, "generation_config.json: eos_token_id"),
        ({"generation_config.json": {"eos_token_id": ["x"]}}, BadCheckpoint, "generation_config.json: eos_token_id"),
    ],
)  # fmt: skip
def test_damaged_repository_is_refused_naming_the_file(
    tmp_path: Path, content: dict[str, Any], kind: type[Exception], expected: str
) -> None:
    with pytest.raises(kind, match=expected) as error:
        built(tmp_path, files(**content))
    assert str(error.value).startswith(f"{tmp_path / 'model'}: ")
    assert len(str(error.value)) < 600


def test_merge_of_tokens_that_are_missing_is_refused(tmp_path: Path) -> None:
    model = {**document()["model"], "merges": [["q", "nothing"]]}
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: cannot be used"):
        built(tmp_path, files(**{"tokenizer.json": document(model=model)}))


def test_added_token_keeps_its_flags(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(json.dumps(document()))
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ours = encoder(built(tmp_path, files(**{"tokenizer.json": tokenizer.to_str()})))
    assert ours("dog  <mask>") == [*ours("dog"), tokenizer.token_to_id("<mask>")]


def test_character_map_that_leads_out_of_itself_is_refused(tmp_path: Path) -> None:
    raw = bytearray(charsmap({"é": "e"}))
    raw[4:8] = b"\xff\xff\xff\x7f"
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json: normalizer is damaged: its trie leads to unit"):
        built(tmp_path, files(**{"tokenizer.json": document(normalizer=normalizer)}))
