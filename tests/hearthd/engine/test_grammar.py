"""Masks and their bounds, driven by texts of our own over the tiny model's vocabulary: bytes and a few merges."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hearthd.engine.frames import Grammar
from hearthd.engine.grammar import Constraint, GrammarError, Grammars
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VariantInfo, read_variant

ANY_OBJECT = {"type": "object"}


class Writer:
    """Writes texts under constraints and sees which tokens these forbid."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        info = read_variant(directory)
        assert info is not None
        self.info: VariantInfo = msgspec.structs.replace(info, **changes)
        self.tokenizer = Tokenizer(directory / info.tokenizer, self.info)
        self.grammars = Grammars(self.tokenizer, self.info)
        self.logits = np.linspace(-1, 1, self.info.vocab_size, dtype=np.float32)

    def constraint(self, schema: Any, opening: str = "", closing: str = "", *, is_thinking: bool = False) -> Constraint:
        return self.grammars.compile(Grammar(json.dumps(schema), opening, closing, is_thinking))

    def refusal(self, schema: Any) -> str:
        with pytest.raises(GrammarError) as caught:
            self.constraint(schema)
        return str(caught.value)

    def written(self, constraint: Constraint, text: str) -> str:
        """As much of `text` as the constraint lets through."""
        written = b""
        for token in self.tokenizer.encode_plain(text):
            if constraint.apply(self.logits)[token] == -np.inf:
                break
            constraint.accept(token)
            written += self.tokenizer.spelt(token)
        return written.decode()

    def allowed(self, constraint: Constraint) -> set[str]:
        row = constraint.apply(self.logits)
        return {self.tokenizer.spelt(int(token)).decode("latin-1") for token in np.flatnonzero(row > -np.inf)}


@pytest.fixture(scope="module")
def writer(tiny_variant: Path) -> Writer:
    return Writer(tiny_variant)


def test_any_object_may_hold_anything_and_ends_at_its_last_brace(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT)
    text = '{"a": [1, -2.5e3, null, true, {"the in": "\\u0007 \\"x\\" é"}],\n  "b":{}}'
    assert writer.written(constraint, text[:-1]) == text[:-1]
    assert not constraint.finished
    assert writer.written(constraint, "}") == "}"
    assert constraint.finished


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("[1]", ""),
        ("Sure! {}", ""),
        (" {}", ""),
        ('{"a" 1}', '{"a" '),
        ('{"a": 01}', '{"a": 0'),
        ('{"a": 1,}', '{"a": 1,'),
        ("{} ", "{}"),
        ("{'a'", "{"),
        ('{"a\n', '{"a'),
    ],
)
def test_what_is_not_json_is_stopped_where_it_fails(writer: Writer, text: str, written: str) -> None:
    assert writer.written(writer.constraint(ANY_OBJECT), text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('{"a":  1', '{"a": '),
        ("{\n\n", "{\n"),
        ("{" + "\n" + " " * 40, "{" + "\n" + " " * 24),
        ("{\n\t\t", "{\n\t\t"),
    ],
)
def test_blanks_between_the_tokens_of_json_are_bounded(writer: Writer, text: str, written: str) -> None:
    assert writer.written(writer.constraint(ANY_OBJECT), text) == written


def test_schema_is_followed(writer: Writer) -> None:
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "cow"]}, "age": {"type": "integer", "minimum": 3, "maximum": 12}},
        "required": ["kind", "age"],
        "additionalProperties": False,
    }
    constraint = writer.constraint(schema)
    assert writer.written(constraint, '{"kind": "c') == '{"kind": "c'
    assert writer.allowed(constraint) == {"a", "o"}
    assert writer.written(constraint, 'ow", "age": 1') == 'ow", "age": 1'
    assert {"0", "1", "2"} == writer.allowed(constraint) - {"}", "\n", " "}
    assert writer.written(constraint, "2}") == "2}"
    assert constraint.finished


def test_only_an_end_may_follow_a_finished_answer(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT)
    writer.written(constraint, "{}")
    row = constraint.apply(writer.logits)
    assert np.flatnonzero(row > -np.inf).tolist() == sorted(writer.info.eos_ids)


def test_every_end_token_may_end_an_answer_that_could_go_on(tiny_variant: Path) -> None:
    writer = Writer(tiny_variant, eos_ids=[0, 2])
    constraint = writer.constraint({"type": "integer"})
    assert np.isneginf(constraint.apply(writer.logits)[[0, 2]]).all()
    writer.written(constraint, "12")
    assert not constraint.finished
    assert np.isfinite(constraint.apply(writer.logits)[[0, 2]]).all()
    constraint.accept(2)
    assert constraint.finished


def test_model_without_end_tokens_still_finishes_an_object(tiny_variant: Path) -> None:
    writer = Writer(tiny_variant, eos_ids=[])
    constraint = writer.constraint(ANY_OBJECT)
    assert writer.written(constraint, '{"a": 1}') == '{"a": 1}'
    assert constraint.finished


def test_special_tokens_are_never_part_of_a_string(writer: Writer) -> None:
    constraint = writer.constraint({"type": "string"})
    writer.written(constraint, '"a')
    assert np.isneginf(constraint.apply(writer.logits)[:3]).all()  # the tiny model's control tokens


def test_logits_wider_than_the_vocabulary_are_masked_to_their_end(tiny_variant: Path) -> None:
    writer = Writer(tiny_variant, vocab_size=Writer(tiny_variant).info.vocab_size + 100)
    constraint = writer.constraint(ANY_OBJECT)
    assert writer.allowed(constraint) == {"{"}
    wider = np.zeros(len(writer.logits) + 7, np.float32)
    assert np.isneginf(constraint.apply(wider)[-107:]).all()


def test_apply_leaves_the_logits_as_they_are_and_keeps_those_allowed(writer: Writer) -> None:
    before = writer.logits.copy()
    constraint = writer.constraint(ANY_OBJECT)
    row = constraint.apply(writer.logits)
    assert (writer.logits == before).all()
    (token,) = np.flatnonzero(row > -np.inf)
    assert row[token] == before[token]


def test_token_that_was_not_allowed_is_an_error(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT)
    with pytest.raises(GrammarError):
        constraint.accept(writer.tokenizer.encode_plain("x")[0])


def test_two_answers_of_one_schema_do_not_meet(writer: Writer) -> None:
    first, second = (writer.constraint(ANY_OBJECT) for _ in range(2))
    writer.written(first, '{"a": 1}')
    assert first.finished
    assert writer.written(second, '{"b') == '{"b'


THOUGHT = "<think>Let me {see}.\n</thin </think>"


@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
def test_thoughts_are_free_and_the_answer_behind_them_is_not(writer: Writer, between: str) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "</think>")
    text = THOUGHT + between + '{"a": 1}'
    assert writer.written(constraint, text[:-1] + "x") == text[:-1]
    assert writer.written(constraint, "}") == "}"
    assert constraint.finished


def test_answer_may_begin_without_the_thoughts_that_a_model_could_have(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "</think>")
    assert writer.allowed(constraint) == {"<", "{"}
    assert writer.written(constraint, '{"a": 1}') == '{"a": 1}'
    assert constraint.finished


@pytest.mark.parametrize("is_thinking", [False, True])
def test_thoughts_that_nothing_closes_are_not_begun(writer: Writer, is_thinking: bool) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "", is_thinking=is_thinking)
    assert writer.allowed(constraint) == {"{"}


def test_opening_tag_once_begun_is_completed(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "</think>")
    assert writer.written(constraint, "<{") == "<"
    assert writer.allowed(constraint) == {"t", "th"}


def test_tag_that_begins_as_the_answer_does_may_become_either(writer: Writer) -> None:
    for text in ("[THINK]no[/THINK][1]", "[1]"):
        constraint = writer.constraint({"type": "array"}, "[THINK]", "[/THINK]")
        assert writer.written(constraint, text) == text
        assert constraint.finished


def test_prompt_that_opened_the_thoughts_makes_the_answer_wait_for_their_end(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "</think>", is_thinking=True)
    assert writer.written(constraint, "any <think> text</think>{") == "any <think> text</think>{"
    assert writer.written(constraint, "x") == ""


def test_thoughts_cannot_end_the_answer(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "</think>", is_thinking=True)
    writer.written(constraint, "hm")
    assert np.isneginf(constraint.apply(writer.logits)[writer.info.eos_ids]).all()


def test_blanks_behind_thoughts_are_bounded(writer: Writer) -> None:
    constraint = writer.constraint(ANY_OBJECT, "<think>", "</think>", is_thinking=True)
    assert writer.written(constraint, "</think>\n\n\n{") == "</think>\n\n"
    assert writer.written(constraint, "{}") == "{}"


def test_tags_that_are_special_tokens_are_found(tiny_variant: Path) -> None:
    writer = Writer(tiny_variant, eos_ids=[2])
    constraint = writer.constraint(ANY_OBJECT, "<|im_start|>", "<|endoftext|>")
    assert writer.allowed(constraint) == {"<", "<|im_start|>", "{"}
    text = '<|im_start|>hm<|endoftext|>{"a": 1}'
    assert writer.written(constraint, text) == text


def test_token_that_ends_the_thoughts_begins_the_answer_with_its_rest(writer: Writer) -> None:
    # the merges of the tiny model: "th" and "the"; a tag that ends in t leaves "h" and "he" behind
    string = {"type": "string", "pattern": "^x$"}
    constraint = writer.constraint(string, "<t", "/t", is_thinking=True)
    writer.written(constraint, "so /")
    assert {"t"} == {text for text in writer.allowed(constraint) if text.startswith("t")}
    letters = {"enum": [1, True]}
    constraint = writer.constraint(letters, "<", "/", is_thinking=True)
    assert writer.written(constraint, "so /true") == "so /true"
    assert constraint.finished


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "pattern '(?=a)b': look-around"),
        ({"type": "string", "pattern": r"(a)\1"}, "backreferences are not supported"),
        ({"type": "string", "pattern": "(["}, "pattern '([': unclosed character class"),
        ({"type": "string", "pattern": "(" * 500 + ")" * 500}, "maximum number of nested parentheses"),
        ({"type": "string", "format": "json-pointer"}, "unsupported string format: json-pointer"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength (5) is greater than maxLength (3)"),
        ({"type": "array", "uniqueItems": True}, 'unsupported keywords: ["uniqueItems"]'),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "tells its branches apart"),
        ({"$ref": "http://127.0.0.1/schema.json"}, "references must stay inside the schema"),
        ({"$ref": "file:///etc/passwd"}, "references must stay inside the schema"),
        ({"$ref": "#/$defs/nowhere"}, "'/$defs/nowhere' does not exist"),
        ({"$ref": "#"}, "no text satisfies the schema"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "required property 'a' is unsatisfiable"),
        (
            {"allOf": [{"anyOf": [{"properties": {f"{i}{j}": {}}} for j in range(4)]} for i in range(12)]},
            "the schema is too complex",
        ),
        ({"enum": [f"value {i}" for i in range(100_000)]}, "the schema is too complex"),
    ],
)
def test_schema_that_cannot_be_enforced_is_refused_with_the_reason(writer: Writer, schema: Any, said: str) -> None:
    assert said in writer.refusal(schema)


def test_refused_schema_is_one_line(writer: Writer) -> None:
    assert "\n" not in writer.refusal({"type": "string", "pattern": "(["})


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a|a)*b$",
        "^((a{1,100}){1,100}){1,100}$",
        "(.*a.{15}|.*b.{15})",
        r"^(\p{L}{1,500}\d{1,500}){1,100}$",
        "(x+x+)+y",
    ],
)
def test_exploding_pattern_costs_little(writer: Writer, pattern: str) -> None:
    started = time.process_time()
    constraint = writer.constraint({"type": "string", "pattern": pattern})
    writer.written(constraint, '"' + "a1b" * 30)
    assert time.process_time() - started < 5  # a bound on work, some hundred times what it takes


def test_grammar_too_complex_for_a_large_vocabulary_is_refused_before_a_token_is_made(smollm2_variant: Path) -> None:
    writer = Writer(smollm2_variant)
    assert "the schema is too complex" in writer.refusal({"type": "string", "pattern": "^(.{1,1000}){1,1000}$"})
    many = {f"property {i}": {"type": "string"} for i in range(3000)}
    assert "the schema is too complex" in writer.refusal({"type": "object", "properties": many})


def links(length: int) -> dict[str, Any]:
    """Definitions each of which refers to the next."""
    definitions: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{length}": {"const": 1}}}


def test_chain_of_references_is_followed(writer: Writer) -> None:
    constraint = writer.constraint(links(500))
    assert writer.written(constraint, "1") == "1"


def holding_all(count: int) -> dict[str, Any]:
    """Patterns that must all hold, for which the automaton has a state for each subset of them."""
    return {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.*"} for i in range(count)]}


@pytest.mark.parametrize(
    "schema",
    [
        links(9000),  # deeper than a stack
        holding_all(20),  # more steps than there is time for
        {"type": "integer", "multipleOf": 1_000_003},  # more states than there is memory for
        {"patternProperties": {f"^{chr(97 + i // 26)}{chr(97 + i % 26)}.*": {} for i in range(600)}},
    ],
    ids=["references", "patterns", "remainders", "names"],
)
def test_schema_that_would_take_the_process_with_it_is_refused(writer: Writer, schema: Any) -> None:
    assert "the schema is too complex" in writer.refusal(schema)


def test_schema_that_is_no_json_is_refused(writer: Writer) -> None:
    with pytest.raises(GrammarError, match="not JSON"):
        writer.grammars.compile(Grammar("{"))


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 3}]}, "3"),
        ({"type": "integer", "multipleOf": 12, "minimum": 14, "maximum": 30}, "24"),
        ({"type": "object", "patternProperties": {"^a": {"const": 1}}, "additionalProperties": False}, '{"ab": 1}'),
        ({"$defs": {"d": {"type": "string"}}, "$ref": "#/$defs/d", "maxLength": 2}, '"ab"'),
    ],
)
def test_schema_that_is_tried_first_is_followed_as_any_other(writer: Writer, schema: Any, text: str) -> None:
    constraint = writer.constraint(schema)
    assert writer.written(constraint, text) == text


def leaves(value: Any) -> Iterator[Any]:
    yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from leaves(child)


def test_recursive_schema_is_followed_as_deep_as_the_text_goes(writer: Writer) -> None:
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
        "additionalProperties": False,
    }
    constraint = writer.constraint(tree)
    text = '{"children": [' * 20 + "]}" * 20
    assert writer.written(constraint, text) == text
    assert constraint.finished
    assert len(list(leaves(json.loads(text)))) == 40
