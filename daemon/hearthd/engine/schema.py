"""A JSON Schema, compiled to a parser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import llguidance

# Between the tokens of JSON a blank, or a line's end and its indentation, once: what models write by themselves, and
# no room for a model that would go on with blanks for ever, or until the guard against repetition ends the answer.
WHITESPACE = r"\x20|\n[\x20\t]{0,24}"
JSON_OPTIONS = {
    "whitespace_pattern": WHITESPACE,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
}
REASONS = (
    # what the library says begins with -> what a client is told
    ("Unable to determine if regex is empty", "the schema is too complex: too many patterns must hold at once"),
    ("oneOf constraints", 'oneOf works only where a type or a required constant tells its branches apart; try "anyOf"'),
    ("NoExtensionBias", "no text satisfies the schema"),
    ("Unimplemented keys", "unsupported keywords"),
    ("Unknown format", "unsupported string format"),
    ("Default retriever", "references must stay inside the schema"),
)
TOO_COMPLEX = ("too big", "too large", "too many", "too complex", "fuel", "items; max", "limit", "Unimplemented: ")


class GrammarError(ValueError):
    """A schema that no answer can be held to; the text says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid format: {reason}")
        self.reason = reason


def explained(message: str) -> str:
    """The library's complaint, in a line for the client."""
    message = message.replace("<non-verbose/>", "").strip()
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines and lines[0].startswith("regex parse error"):
        return f"pattern {lines[1][:100]!r}: {lines[-1].removeprefix('error: ')}"
    line = " ".join(lines).partition("; consider")[0][:300]
    for start, reason in REASONS:
        if start in line:
            rest = line.partition(start)[2] if start in ("Unimplemented keys", "Unknown format") else ""
            return reason + rest
    return f"the schema is too complex: {line}" if any(word in line for word in TOO_COMPLEX) else line


def compiled(trie: llguidance.LLTokenizer, schema: str) -> llguidance.LLMatcher:
    """The parser of JSON text that `schema` accepts. Raises GrammarError."""
    import llguidance

    try:
        text = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=JSON_OPTIONS)
    except ValueError as error:
        raise GrammarError(explained(str(error))) from error
    limits = llguidance.LLParserLimits(max_items_in_row=10_000, max_lexer_states=100_000, verbose_errors=False)
    parser = llguidance.LLMatcher(trie, text, limits=limits, log_level=0)
    if parser.is_error():
        raise GrammarError(explained(parser.get_error()))
    return parser
