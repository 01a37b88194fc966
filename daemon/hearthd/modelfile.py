"""Modelfiles: the text that a model is created from.

    file        = *(blank | comment | instruction)
    comment     = "#" to the end of the line, only where an instruction could begin
    instruction = word blanks value               word: ASCII letters of any case, see INSTRUCTIONS
                | "PARAMETER" blanks name blanks value      name: letters, digits, "_"
                | "MESSAGE" blanks role blanks value        role: system, user, assistant
    value       = to the end of the line, without blanks around it
                | '\"\"\"' text '\"\"\"'   the closing quotes end a line, the text may span lines
                | '"' text '"'       likewise

There are no escapes, and a quote counts only at the very start of a value; a value that starts with
one but has no closing one reaches to the end of the file, which is an error. Text is UTF-8, or UTF-16
with a byte order mark. Non-printable characters are dropped; blanks, tabs and line ends within a value stay.
"""

from __future__ import annotations

import codecs
import re

import msgspec

from hearthd.errors import BadRequest

INSTRUCTIONS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")

_BAD_COMMAND = "command must be one of " + ", ".join(f'"{word}"' for word in INSTRUCTIONS[:-1]) + ', or "requires"'
_BAD_ROLE = 'message role must be one of "system", "user", or "assistant"'

_GAP = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"(?:#[^\r\n]*)?")
_BLANKS = re.compile(r"[ \t]*")
_WORD = re.compile(r"[A-Za-z]*")
_PARAMETER = re.compile(r"[A-Za-z0-9_]*")
_LINE = re.compile(r"[^\r\n]*")
_LINE_END = re.compile(r"\r\n|\r|\n")
_CLOSING = {quote: re.compile(quote + r"[^\S\r\n]*(?=[\r\n]|\Z)") for quote in ('"""', '"')}
_KEPT_CONTROLS = frozenset("\t\r\n")


class ModelfileError(BadRequest):
    """A Modelfile that cannot be parsed; the sentence names the line where one is known."""


class Command(msgspec.Struct, frozen=True):
    """One instruction.

    `name` is "model" for FROM, the parameter's name for PARAMETER, else the word in lower case.
    `args` of a message is "role: text".
    """

    name: str
    args: str


class Modelfile(msgspec.Struct, frozen=True):
    """The instructions in order; at least one is a FROM."""

    commands: tuple[Command, ...]

    def values(self, name: str) -> list[str]:
        """The arguments of all commands of that name, in order."""
        return [command.args for command in self.commands if command.name == name]

    def parameters(self) -> list[tuple[str, str]]:
        """Names and values of the PARAMETER instructions, in order."""
        return [(command.name, command.args) for command in self.commands if command.name not in _NOT_PARAMETERS]

    def messages(self) -> list[tuple[str, str]]:
        """Roles and texts of the MESSAGE instructions, in order."""
        parts = (args.partition(": ") for args in self.values("message"))
        return [(role, text) for role, _, text in parts]


_NOT_PARAMETERS = frozenset(INSTRUCTIONS) | {"model"}


def parse(source: str | bytes) -> Modelfile:
    """The Modelfile in `source`. Raises ModelfileError."""
    commands = _Scanner(source if isinstance(source, str) else _decode(source)).commands()
    if not any(command.name == "model" for command in commands):
        raise ModelfileError("no FROM line")
    return Modelfile(tuple(commands))


def print_modelfile(commands: list[Command] | tuple[Command, ...]) -> str:
    """The text that parses to `commands` again, each on a line of its own."""
    return "".join(_print_command(command) + "\n" for command in commands)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.at = 0

    def commands(self) -> list[Command]:
        """Every instruction up to the end of the file."""
        found = []
        while self._skip_to_instruction():
            found.append(self._command())
        return found

    def _skip_to_instruction(self) -> bool:
        self._take(_GAP)
        while self._take(_COMMENT):
            self._take(_GAP)
        return self.at < len(self.text)

    def _command(self) -> Command:
        word = self._word()
        if word == "parameter":
            return Command(self._parameter_name(), self._value())
        if word == "message":
            role = self._role()
            return Command("message", f"{role}: {self._value()}")
        return Command("model" if word == "from" else word, self._value())

    def _word(self) -> str:
        self._skip_unprintable()
        start = self.at
        word = self._take(_WORD).lower()
        if self.at == len(self.text):
            raise self._unfinished(word.upper(), start)
        if word not in INSTRUCTIONS or self.text[self.at] not in " \t":
            raise self._error(_BAD_COMMAND, start)
        return word

    def _parameter_name(self) -> str:
        name = self._argument(_PARAMETER)
        if name in _NOT_PARAMETERS:
            raise self._error(f"unknown parameter '{name}'", self.at)
        return name

    def _role(self) -> str:
        role = self._argument(_WORD)
        if role not in ROLES:
            raise self._error(_BAD_ROLE, self.at)
        return role

    def _argument(self, pattern: re.Pattern[str]) -> str:
        """A word that must be followed by a blank and a value."""
        self._take(_BLANKS)
        word = self._take(pattern)
        if not word or self.text[self.at : self.at + 1] not in (" ", "\t"):
            raise self._unfinished("instruction", self.at)
        return word

    def _value(self) -> str:
        self._take(_BLANKS)
        for quote in ('"""', '"'):
            if self.text.startswith(quote, self.at):
                return _printable(self._quoted(quote))
        return _printable(self._take(_LINE)).strip()

    def _quoted(self, quote: str) -> str:
        start = self.at + len(quote)
        closing = _CLOSING[quote].search(self.text, start)
        if closing is None:
            raise self._unfinished("quoted value", self.at)
        self.at = closing.end()
        return self.text[start : closing.start()]

    def _skip_unprintable(self) -> None:
        while self.at < len(self.text) and not self.text[self.at].isprintable():
            self.at += 1

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        assert match is not None  # all these patterns match the empty text
        self.at = match.end()
        return match[0]

    def _error(self, message: str, at: int) -> ModelfileError:
        return ModelfileError(f"(line {self._line(at)}): {message}")

    def _unfinished(self, what: str, at: int) -> ModelfileError:
        return ModelfileError(f"unexpected EOF: the {what} in line {self._line(at)} is not complete")

    def _line(self, at: int) -> int:
        return 1 + len(_LINE_END.findall(self.text, 0, at))


def _decode(data: bytes) -> str:
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.decode("utf-8-sig", "replace")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char for char in text if char.isprintable() or char in _KEPT_CONTROLS)


def _print_command(command: Command) -> str:
    if command.name == "model":
        return f"FROM {_quote(command.args)}"
    if command.name == "message":
        role, _, text = command.args.partition(": ")
        return f"MESSAGE {role} {_quote(text)}"
    if command.name in INSTRUCTIONS:
        return f"{command.name.upper()} {_quote(command.args)}"
    return f"PARAMETER {command.name} {_quote(command.args)}"


def _quote(text: str) -> str:
    if not text:
        return '""'
    plain = "\n" not in text and "\r" not in text and text == text.strip() and not text.startswith('"')
    if plain:
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'
