"""Random JSON Schemas: whatever the model would like to say, a completed answer parses and validates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from hearthd.api.formats import schema_of
from hearthd.engine.batch import Batch
from hearthd.engine.frames import Done, Failed, Frame, Generate, Grammar, Piece, SamplingParams
from hearthd.engine.grammar import GrammarError, Grammars
from hearthd.engine.session import Session, open_session
from hearthd.engine.tokens import Detokenizer, Tokenizer
from hearthd.store.variant import VariantInfo, read_variant

Schema = dict[str, Any]
NAMES = st.sampled_from(["name", "age", "list", "two words", 'quo"te', "é", "a/b~c", "$ref", ""])
CONSTANTS = st.sampled_from([None, True, False, 0, -17, 2.5, "", "text", 'quo"te\\', "日本", [1, "a"], {"k": [None]}])
PATTERNS = [
    "^[a-z]{1,4}$",
    "^\\d+-\\d+$",
    "^(yes|no|maybe)$",
    "[aeiou]x",
    "^\\w{2}\\s",
    "^[^a]$",
    "^é?\\.$",
    'a"b\\\\c',
]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "duration"]
CHECKED = jsonschema.FormatChecker(["ipv4", "ipv6", "uuid", "email"])


def number_bounds(kind: str) -> st.SearchStrategy[Schema]:
    ends = st.integers(-500, 500) if kind == "integer" else st.integers(-500, 500).map(lambda eighths: eighths / 8)
    lower, upper = st.sampled_from(["minimum", "exclusiveMinimum"]), st.sampled_from(["maximum", "exclusiveMaximum"])
    between = st.builds(
        lambda low, high, start, width: {low: start, high: start + width}, lower, upper, ends, st.integers(2, 2000)
    )
    above = st.builds(lambda low, start: {low: start}, lower, ends)
    multiple = st.sampled_from([2, 7, 10, 0.5] if kind == "number" else [1, 3, 10]).map(lambda by: {"multipleOf": by})
    return st.one_of(st.just({}), between, above, multiple).map(lambda bounds: {"type": kind, **bounds})


def string_lengths() -> st.SearchStrategy[Schema]:
    return st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 5),
        st.integers(0, 9),
    )


LEAVES: st.SearchStrategy[Schema] = st.one_of(
    number_bounds("integer"),
    number_bounds("number"),
    string_lengths(),
    st.sampled_from(PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 12}),
    st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name, "maxLength": 40}),
    st.lists(CONSTANTS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    CONSTANTS.map(lambda value: {"const": value}),
    st.sampled_from([{"type": "boolean"}, {"type": ["string", "null"], "maxLength": 3}, {"type": ["integer", "null"]}]),
)


@st.composite
def objects(draw: st.DrawFn, children: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(NAMES, children, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    others = draw(st.sampled_from([False, False, {"type": "integer", "minimum": 0, "maximum": 9}]))
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": others}
    if others and len(required) == len(properties):
        schema["maxProperties"] = len(properties) + 2
    return schema


@st.composite
def arrays(draw: st.DrawFn, children: st.SearchStrategy[Schema]) -> Schema:
    least, more = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    if draw(st.booleans()):
        prefix = draw(st.lists(children, min_size=1, max_size=3))
        return {"type": "array", "prefixItems": prefix, "items": False, "minItems": min(least, len(prefix))}
    return {"type": "array", "items": draw(children), "minItems": least, "maxItems": least + more}


def choices(children: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.lists(children, min_size=1, max_size=3).map(lambda options: {"anyOf": options})


def referring(schema: Schema) -> Schema:
    """A linked list of what `schema` accepts, by reference to itself."""
    link = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    node = {
        "type": "object",
        "properties": {"value": {"$ref": "#/$defs/value"}, "next": link},
        "required": ["value", "next"],
        "additionalProperties": False,
    }
    return {"$defs": {"value": schema, "node": node}, "$ref": "#/$defs/node"}


def telling_apart(schemas: list[Schema]) -> Schema:
    """One of objects that a member tells apart, by reference."""
    variants = {
        f"v{index}": {
            "type": "object",
            "properties": {"kind": {"const": index}, "value": schema},
            "required": ["kind", "value"],
            "additionalProperties": False,
        }
        for index, schema in enumerate(schemas)
    }
    return {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in variants], "$defs": variants}


def both(number: Schema) -> Schema:
    return {"allOf": [number, {"type": ["integer", "string"], "minimum": -1000, "maximum": 9999}]}


INNER = st.recursive(
    LEAVES, lambda children: st.one_of(objects(children), arrays(children), choices(children)), max_leaves=6
)
SCHEMAS: st.SearchStrategy[Schema] = st.one_of(
    INNER,
    INNER.map(referring),
    st.lists(INNER, min_size=1, max_size=3).map(telling_apart),
    number_bounds("integer").map(both),
)


def check(schema: Schema, text: str) -> None:
    """`text` is JSON that `schema` accepts."""
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKED)
    validator.validate(json.loads(text))


class Vocabulary:
    """A model without a model: its tokens, and logits at random that like to come to an end."""

    def __init__(self, directory: Path) -> None:
        info = read_variant(directory)
        assert info is not None
        self.info: VariantInfo = info
        self.tokenizer = Tokenizer(directory / info.tokenizer, info)
        self.grammars = Grammars(self.tokenizer, info)
        self._liked = [token for sign in '"]},' for token in self.tokenizer.encode_plain(sign)]

    def answer(self, schema: Schema, seed: int, num_predict: int) -> str | None:
        """A random text that the schema lets through; None where it does not end in time."""
        constraint = self.grammars.compile(Grammar(schema_of(schema) or ""))
        chance = np.random.default_rng(seed)
        detokenizer = Detokenizer(self.tokenizer)
        text = ""
        for _ in range(num_predict):
            logits = chance.normal(size=self.info.vocab_size).astype(np.float32)
            logits[[*self._liked, *self.info.eos_ids]] += 3
            token = int(constraint.apply(logits).argmax())
            constraint.accept(token)
            text += detokenizer.add(token)
            if constraint.finished:
                return text
        return None


@pytest.fixture(scope="module")
def vocabulary(tiny_variant: Path) -> Vocabulary:
    return Vocabulary(tiny_variant)


@given(schema=SCHEMAS, seed=st.integers(0, 1 << 30))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_random_text_under_a_random_schema_validates(vocabulary: Vocabulary, schema: Schema, seed: int) -> None:
    try:
        text = vocabulary.answer(schema, seed, 600)
    except GrammarError as error:
        assert "nsatisfiable" in str(error) or "no text satisfies" in str(error), schema
        reject()
    if text is not None:
        check(schema, text)


class Starter:
    """The starter model behind a batch."""

    def __init__(self, directory: Path) -> None:
        info = read_variant(directory)
        assert info is not None
        self.session: Session = open_session(directory, info, num_ctx=1024, num_threads=2, num_batch=512)
        self._sent: list[Frame] = []
        tokenizer = Tokenizer(directory / info.tokenizer, info)
        self._batch = Batch(self.session, tokenizer, info, self._took)
        self.num_complete = 0

    def _took(self, *frames: Frame) -> None:
        self._sent.extend(frames)

    def answer(self, schema: Schema, seed: int) -> str | None:
        """The model's answer; None where it is too long."""
        self._sent.clear()
        text = schema_of(schema) or ""
        prompt = f"<|im_start|>user\nWrite a short example of this schema:\n{text}<|im_end|>\n<|im_start|>assistant\n"
        sampling = SamplingParams(temperature=0.8, seed=seed)
        self._batch.add(Generate(1, prompt, sampling=sampling, num_predict=160, grammar=Grammar(text)))
        while not self._batch.idle:
            self._batch.step()
        done = self._sent[-1]
        if isinstance(done, Failed) and done.status == 400:
            raise GrammarError(done.message)
        assert isinstance(done, Done), done
        if done.reason != "stop":
            return None
        self.num_complete += 1
        return "".join(piece.text for piece in self._sent if isinstance(piece, Piece))


@pytest.fixture(scope="module")
def starter(smollm2_variant: Path) -> Iterator[Starter]:
    starter = Starter(smollm2_variant)
    yield starter
    starter.session.close()


def num_validated(starter: Starter, num_schemas: int) -> int:
    """How many answers under that many random schemas were completed; all of them validate."""

    @given(schema=SCHEMAS, seed=st.integers(0, 1 << 30))
    @settings(max_examples=num_schemas, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def answers(schema: Schema, seed: int) -> None:
        try:
            text = starter.answer(schema, seed)
        except GrammarError:  # the schema contradicts itself; the test above looks into that
            reject()
        if text is not None:
            check(schema, text)

    before = starter.num_complete
    answers()
    return starter.num_complete - before


def test_answers_of_the_starter_model_validate(starter: Starter) -> None:
    assert num_validated(starter, 10) >= 5


@pytest.mark.slow
def test_two_hundred_answers_of_the_starter_model_validate(starter: Starter) -> None:
    assert num_validated(starter, 200) >= 100
