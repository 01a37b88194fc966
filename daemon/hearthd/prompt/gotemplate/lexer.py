"""Template text to tokens, as https://pkg.go.dev/text/template divides it."""

from __future__ import annotations

import re
from typing import NamedTuple

from hearthd.prompt.gotemplate.errors import TemplateError
from hearthd.prompt.gotemplate.quoting import quote

TEXT, LEFT, RIGHT, SPACE, ERROR, EOF = "text", "left", "right", "space", "error", "eof"
ASSIGN, DECLARE, PIPE, OPEN, CLOSE, CHAR = "=", ":=", "|", "(", ")", "char"
STRING, RAW_STRING, CHARACTER, NUMBER, COMPLEX, BOOL = "string", "raw string", "character", "number", "complex", "bool"
DOT, FIELD, VARIABLE, IDENTIFIER = "dot", "field", "variable", "identifier"

KEYWORDS = frozenset(("block", "break", "continue", "define", "else", "end", "if", "nil", "range", "template", "with"))

MAX_TOKENS = 30_000

_WORD = re.compile(r"\w*")
_SPACES = re.compile(r"[ \t\r\n]+")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_RAW = re.compile(r"`[^`]*`")
_CHARACTER = re.compile(r"'(?:[^'\\\n]|\\[^\n])*'")
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?|0[oO][0-7_]*(?:\.[0-7_]*)?"
    r"|0[bB][01_]*(?:\.[01_]*)?|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)
_SINGLE = {"=": ASSIGN, "|": PIPE}
_TERMINATORS = " \t\r\n.,|:()"
_BLANKS = " \t\r\n"


class Token(NamedTuple):
    """A piece of the template. `kind` is a keyword's own word or one of the constants above."""

    kind: str
    pos: int  # characters before it
    text: str
    line: int

    def __str__(self) -> str:
        if self.kind == EOF:
            return "EOF"
        if self.kind == ERROR:
            return self.text
        if self.kind in KEYWORDS or self.kind == DOT:
            return f"<{self.text}>"
        return quote(self.text[:10]) + "..." if len(self.text) > 10 else quote(self.text)


class _Broken(Exception):
    """The rest of the text is no token. `start`: where the broken one begins."""

    def __init__(self, message: str, start: int) -> None:
        super().__init__(message)
        self.start = start


def tokens(text: str) -> list[Token]:
    """All tokens of `text`; the last is EOF, or ERROR with what is wrong as its text. TemplateError: too many."""
    lexer = _Lexer(text)
    try:
        lexer.run()
    except _Broken as broken:
        lexer.emit(ERROR, broken.start, broken.start, str(broken))
    return lexer.found


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.found: list[Token] = []
        self._counted, self._line = 0, 1
        self._parens = 0

    def emit(self, kind: str, start: int, end: int, text: str | None = None) -> int:
        """Add a token; `end`."""
        if len(self.found) >= MAX_TOKENS:
            raise TemplateError(f"template: :{self._line}: the text has more than {MAX_TOKENS} words and marks")
        self._line += self.text.count("\n", self._counted, start)
        self._counted = start
        self.found.append(Token(kind, start, self.text[start:end] if text is None else text, self._line))
        return end

    def run(self) -> None:
        at = 0
        while (opening := self.text.find("{{", at)) >= 0:
            at = self._action(at, opening)
        if at < len(self.text):
            self.emit(TEXT, at, len(self.text))
        self.emit(EOF, len(self.text), len(self.text))

    def _action(self, start: int, opening: int) -> int:
        """The text from `start` and the action or comment behind it; where the text goes on."""
        inside = opening + 2
        trims = self.text.startswith("-", inside) and self.text[inside + 1 : inside + 2] in (*_BLANKS,)
        end = len(self.text[start:opening].rstrip(_BLANKS)) + start if trims else opening
        if end > start:
            self.emit(TEXT, start, end)
        inside += 2 if trims else 0
        if self.text.startswith("/*", inside):
            return self._comment(inside)
        self.emit(LEFT, opening, opening + 2)
        self._parens = 0
        while not self._closes(inside):
            inside = self._token(inside)
        return self._right(inside)

    def _comment(self, start: int) -> int:
        end = self.text.find("*/", start + 2)
        if end < 0:
            raise _Broken("unclosed comment", start)
        end += 2
        if not self._closes(end):
            raise _Broken("comment ends before closing delimiter", start)
        return self._after(end)

    def _closes(self, at: int) -> bool:
        """Whether the action ends here."""
        text = self.text
        if text.startswith("}}", at) or (text[at : at + 1] in (*_BLANKS,) and text.startswith("-}}", at + 1)):
            if self._parens:
                raise _Broken("unclosed left paren", at)
            return True
        return False

    def _right(self, at: int) -> int:
        mark = at if self.text.startswith("}}", at) else at + 2
        self.emit(RIGHT, mark, mark + 2)
        return self._after(at)

    def _after(self, at: int) -> int:
        """Where the text goes on behind the closing delimiter that begins at `at`."""
        if self.text.startswith("}}", at):
            return at + 2
        blanks = _SPACES.match(self.text, at + 4)
        return blanks.end() if blanks else at + 4

    def _token(self, at: int) -> int:
        """One token of an action; where the next one begins."""
        text = self.text
        char = text[at : at + 1]
        if not char:
            raise _Broken("unclosed action", at)
        if spaces := _SPACES.match(text, at):
            trims = text.startswith("-}}", spaces.end())
            return self.emit(SPACE, at, spaces.end() - trims)
        if char in _SINGLE:
            return self.emit(_SINGLE[char], at, at + 1)
        if char == ":":
            if not text.startswith(":=", at):
                raise _Broken("expected :=", at)
            return self.emit(DECLARE, at, at + 2)
        if char in "\"`'":
            return self._quoted(at, char)
        if char in "()":
            return self._paren(at, char)
        if char == "$" or (char == "." and not "0" <= (text[at + 1 : at + 2] or "0") <= "9"):
            return self._name(at, VARIABLE if char == "$" else FIELD)
        if char in ".+-0123456789":
            return self._number(at)
        if char.isalnum() or char == "_":
            return self._word(at)
        if " " < char <= "~":
            return self.emit(CHAR, at, at + 1)
        raise _Broken(f"unrecognized character in action: {_code(char)}", at)

    def _paren(self, at: int, char: str) -> int:
        self._parens += 1 if char == "(" else -1
        if self._parens < 0:
            raise _Broken("unexpected right paren", at)
        return self.emit(OPEN if char == "(" else CLOSE, at, at + 1)

    def _quoted(self, at: int, mark: str) -> int:
        pattern, kind, name = {
            '"': (_QUOTED, STRING, "quoted string"),
            "`": (_RAW, RAW_STRING, "raw quoted string"),
            "'": (_CHARACTER, CHARACTER, "character constant"),
        }[mark]
        match = pattern.match(self.text, at)
        if not match:
            raise _Broken(f"unterminated {name}", at)
        return self.emit(kind, at, match.end())

    def _name(self, at: int, kind: str) -> int:
        """A field, a variable, or a dot alone."""
        if self._ends(at + 1):
            return self.emit(DOT if kind == FIELD else kind, at, at + 1)
        word = _WORD.match(self.text, at + 1)
        return self.emit(kind, at, self._ended(at, word.end() if word else at + 1))

    def _word(self, at: int) -> int:
        match = _WORD.match(self.text, at)
        end = self._ended(at, match.end() if match else at)
        word = self.text[at:end]
        kind = word if word in KEYWORDS else BOOL if word in ("true", "false") else IDENTIFIER
        return self.emit(kind, at, end)

    def _number(self, at: int) -> int:
        end = self._scanned(at, at)
        if self.text[end : end + 1] in ("+", "-"):
            end = self._scanned(at, end)
            if self.text[end - 1] != "i":
                raise _Broken(f"bad number syntax: {quote(self.text[at:end])}", at)
            return self.emit(COMPLEX, at, end)
        return self.emit(NUMBER, at, end)

    def _scanned(self, start: int, at: int) -> int:
        match = _NUMBER.match(self.text, at)
        end = match.end() if match else at
        follower = self.text[end : end + 1]
        if follower.isalnum() or follower == "_":
            raise _Broken(f"bad number syntax: {quote(self.text[start : end + 1])}", start)
        return end

    def _ends(self, at: int) -> bool:
        char = self.text[at : at + 1]
        return not char or char in _TERMINATORS or self.text.startswith("}}", at)

    def _ended(self, start: int, end: int) -> int:
        """`end`, where a name may end."""
        if not self._ends(end):
            raise _Broken(f"bad character {_code(self.text[end])}", start)
        return end


def _code(char: str) -> str:
    shown = f" '{char}'" if char.isprintable() else ""
    return f"U+{ord(char):04X}{shown}"
