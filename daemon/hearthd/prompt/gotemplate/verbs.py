"""printf, after https://pkg.go.dev/fmt: verbs, flags, sizes, argument indexes, and its notes on mistakes.

Not as there: `#` changes nothing in floating-point numbers, and %b knows none of them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hearthd.prompt.gotemplate import floats, gojson
from hearthd.prompt.gotemplate.budget import Run
from hearthd.prompt.gotemplate.errors import Fault
from hearthd.prompt.gotemplate.printing import show
from hearthd.prompt.gotemplate.quoting import quote, utf8
from hearthd.prompt.gotemplate.values import Image, List, Map, Record, Value, type_name

MAX_WIDTH = 100_000  # of a width and of a precision; Go knows no more than a million

_FLAGS = re.compile(r"[-+# 0]*")
_INDEX = re.compile(r"\[([^\]]*)\]")
_NUMBER = re.compile(r"[0-9]+")
_INTEGERS = {"d": "d", "v": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
_PREFIXES = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}

# flags of Spec: what + and # mean for %v
NAMES, SYNTAX = "N", "S"


class Spec(NamedTuple):
    """What stands between `%` and the verb."""

    flags: str = ""
    width: int | None = None
    precision: int | None = None

    def has(self, flag: str) -> bool:
        return flag in self.flags

    def padded(self, text: str, *, zeros: bool = True) -> str:
        """`text` in the width; zeros go behind the sign."""
        missing = (self.width or 0) - len(text)
        if missing <= 0:
            return text
        if self.has("-"):
            return text + " " * missing
        if not (zeros and self.has("0")):
            return " " * missing + text
        sign = text[:1] if text[:1] in ("-", "+", " ") else ""
        return sign + "0" * missing + text[len(sign) :]


def printf(run: Run, template: str, values: list[Value]) -> str:
    """Go's Sprintf."""
    return run.make("".join(_Printer(run, template, values).parts()))


class _Printer:
    def __init__(self, run: Run, template: str, values: list[Value]) -> None:
        self._run = run
        self._template = template
        self._values = values
        self._at = 0  # in the template
        self._value = 0
        self._reordered = False
        self._good_index = True

    def parts(self) -> list[str]:
        found = []
        template = self._template
        while (percent := template.find("%", self._at)) >= 0:
            found.append(template[self._at : percent])
            self._at = percent + 1
            self._run.steps -= 1
            self._run.check()
            found.append(self._run.make(self._directive()))
        found.append(template[self._at :])
        if not self._reordered and self._value < len(self._values):
            extra = ", ".join(
                "<nil>" if value is None else f"{type_name(value)}={show(self._run, value)}"
                for value in self._values[self._value :]
            )
            found.append(f"%!(EXTRA {extra})")
        return found

    def _directive(self) -> str:
        """One verb with its value."""
        self._good_index = True
        flags = self._match(_FLAGS)
        has_index = self._index()
        width, kind = self._size()
        if has_index and kind == "number":  # "%[3]2d"
            self._good_index = False
        note = "%!(BADWIDTH)" if kind == "bad" else ""
        if width is not None and width < 0:
            flags, width = f"{flags}-", -width
        precision: int | None = None
        has_index = has_index and not kind
        if self._template.startswith(".", self._at) and self._at + 1 < len(self._template):
            precision, has_index, wrong = self._precision(has_index)
            note += wrong
        if not has_index:
            self._index()
        if self._at >= len(self._template):
            return f"{note}%!(NOVERB)"
        verb = self._template[self._at]
        self._at += 1
        return note + self._verb(verb, Spec(flags.replace("0", "") if "-" in flags else flags, width, precision))

    def _precision(self, has_index: bool) -> tuple[int | None, bool, str]:
        """What stands behind the dot; whether an index for the verb was read with it, and a note where it is wrong."""
        self._at += 1
        if has_index:  # "%[3].2d"
            self._good_index = False
        has_index = self._index()
        precision, kind = self._size()
        if kind == "bad" or (precision is not None and precision < 0):
            return None, False, "%!(BADPREC)"
        return precision or 0, has_index and kind != "star", ""

    def _verb(self, verb: str, spec: Spec) -> str:
        if verb == "%":
            return "%"
        if not self._good_index:
            return f"%!{verb}(BADINDEX)"
        if self._value >= len(self._values):
            return f"%!{verb}(MISSING)"
        value = self._values[self._value]
        self._value += 1
        if verb == "v":  # %+v and %#v are verbs of their own
            spec = spec._replace(flags=spec.flags.replace("+", NAMES).replace("#", SYNTAX))
        return formatted(self._run, verb, spec, value)

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._template, self._at)
        text = match[0] if match else ""
        self._at += len(text)
        return text

    def _index(self) -> bool:
        """Take the argument index that stands here; whether one does."""
        if not self._template.startswith("[", self._at):
            return False
        self._reordered = True
        match = _INDEX.match(self._template, self._at)
        if not match:
            self._good_index = False
            self._at += 1
            return False
        self._at = match.end()
        is_number = _NUMBER.fullmatch(match[1]) is not None
        number = int(match[1][:8]) if is_number else 0
        if not 1 <= number <= len(self._values):
            self._good_index = False
            return is_number
        self._value = number - 1
        return True

    def _size(self) -> tuple[int | None, str]:
        """A width or precision, a number or `*` for the next value; and which: "number", "star", "bad" or ""."""
        if self._template.startswith("*", self._at):
            self._at += 1
            value = self._values[self._value] if self._value < len(self._values) else None
            self._value += 1
            if type(value) is not int or abs(value) > 1_000_000:
                return None, "bad"
            return _bounded(value), "star"
        digits = self._match(_NUMBER)
        if not digits:
            return None, ""
        return _bounded(int(digits[:8])), "number"


def _bounded(size: int) -> int:
    if abs(size) > MAX_WIDTH:
        raise Fault(f"printf: a width or precision of {size} is more than {MAX_WIDTH}")
    return size


def formatted(run: Run, verb: str, spec: Spec, value: Value, depth: int = 0) -> str:
    """`value` by one verb."""
    if verb == "T":
        return _text(run, "s", spec, type_name(value))
    if value is None:
        if depth:
            return "<nil>"
        return spec.padded("<nil>", zeros=False) if verb == "v" else f"%!{verb}(<nil>)"
    if verb == "v" and not isinstance(value, str | int | float) and spec.width is None and spec.precision is None:
        return show(run, value, names=spec.has(NAMES))
    if isinstance(value, bool):
        return spec.padded("true" if value else "false") if verb in "tv" else _bad(run, verb, spec, value)
    if isinstance(value, str):
        return _text(run, verb, spec, value)
    if isinstance(value, int):
        return _integer(run, verb, spec, value)
    if isinstance(value, float):
        return _float(run, verb, spec, value)
    return _container(run, verb, spec, value, depth)


def _bad(run: Run, verb: str, spec: Spec, value: Value) -> str:
    return f"%!{verb}({type_name(value)}={formatted(run, 'v', spec, value)})"


def _text(run: Run, verb: str, spec: Spec, value: str) -> str:
    run.look(len(value))
    if verb == "v" and spec.has(SYNTAX):
        verb = "q"
    cut = value if spec.precision is None else value[: spec.precision]
    if verb in "sv":
        return spec.padded(cut)
    if verb == "q":
        if spec.has("#") and "`" not in cut and not any(char < " " and char != "\t" for char in cut):
            return spec.padded(f"`{cut}`")
        return spec.padded(quote(cut, ascii_only=spec.has("+")))
    if verb in "xX":
        return spec.padded(_hexadecimal(utf8(value), verb, spec))
    return _bad(run, verb, spec, value)


def _hexadecimal(data: bytes, verb: str, spec: Spec) -> str:
    data = data if spec.precision is None else data[: spec.precision]
    digits = data.hex(" ") if spec.has(" ") else data.hex()
    if spec.has("#") and data:
        digits = "0x" + (digits.replace(" ", " 0x") if spec.has(" ") else digits)
    return digits.upper() if verb == "X" else digits


def _integer(run: Run, verb: str, spec: Spec, value: int) -> str:
    if verb == "c":
        return spec.padded(_character(value), zeros=False)
    if verb == "q":
        return spec.padded(quote(_character(value), "'", spec.has("+")), zeros=False)
    if verb == "U":
        shown = f"U+{value & 0xFFFFFFFFFFFFFFFF:04X}"
        if spec.has("#") and 0 <= value <= 0x10FFFF and chr(value).isprintable():
            shown += f" '{chr(value)}'"
        return spec.padded(shown, zeros=False)
    if verb not in _INTEGERS:
        return _bad(run, verb, spec, value)
    digits = format(abs(value), _INTEGERS[verb])
    if spec.precision is not None:
        if spec.precision == 0 and value == 0:
            return spec.padded("", zeros=False)
        digits = digits.rjust(spec.precision, "0")
    sign = "-" if value < 0 else "+" if spec.has("+") else " " if spec.has(" ") else ""
    prefix = "0o" if verb == "O" else _PREFIXES.get(verb, "") if spec.has("#") else ""
    if spec.has("0") and spec.precision is None:
        digits = digits.rjust((spec.width or 0) - len(sign), "0")
    if prefix == "0" and digits.startswith("0"):
        prefix = ""
    return spec.padded(sign + prefix + digits, zeros=False)


def _character(value: int) -> str:
    return chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd"


def _float(run: Run, verb: str, spec: Spec, value: float) -> str:
    digits = _float_digits(verb, spec, abs(value))
    if digits is None:
        return _bad(run, verb, spec, value)
    sign = "-" if str(value).startswith("-") else "+" if spec.has("+") else " " if spec.has(" ") else ""
    return spec.padded(sign + digits)


def _float_digits(verb: str, spec: Spec, value: float) -> str | None:
    """A positive number without its sign; None where the verb is not for numbers with a fraction."""
    precision = spec.precision
    if verb in "vgG" and precision is None:
        digits = floats.general(value)
    elif verb in "vgG":
        digits = f"{value:.{precision or 1}g}"
    elif verb in "eE":
        digits = f"{value:.{6 if precision is None else precision}e}"
    elif verb in "fF":
        digits = f"{value:.{6 if precision is None else precision}f}"
    elif verb in "xX" and precision is None:
        mantissa, _, power = value.hex().partition("p")
        shown = mantissa.rstrip("0").removesuffix(".") if "." in mantissa else mantissa
        digits = f"{shown if len(shown) > 2 else '0x0'}p{int(power):+03d}"
    else:
        return None
    return digits.upper() if verb in "GEX" else digits


def _container(run: Run, verb: str, spec: Spec, value: Record | List | Map | Image, depth: int) -> str:
    """Element by element, but tools and the like as the JSON that they print as."""
    if depth > 20:
        raise Fault("printf: a value is nested more than 20 deep")
    if isinstance(value, Image):
        value = value.bytes()
        if verb in "sqxX":
            return _text(run, verb, spec, bytes(value.elements).decode("latin-1"))
    if value.type.is_json and verb in "vsqxX":
        return _text(run, verb, spec, gojson.encode(run, value))
    if isinstance(value, List) and value.type.unwraps and verb in "vsqxX":
        return _text(run, verb, spec, show(run, value))
    run.steps -= 1
    run.check()
    if isinstance(value, Record):
        parts = [formatted(run, verb, spec, field, depth + 1) for field in value.fields.values()]
        return f"{'&' if value.type.is_pointer else ''}{{{' '.join(parts)}}}"
    if isinstance(value, Map):
        pairs = value.entries.items()
        parts = [
            f"{formatted(run, verb, spec, key)}:{formatted(run, verb, spec, entry, depth + 1)}" for key, entry in pairs
        ]
        return f"map[{' '.join(parts)}]"
    return f"[{' '.join([formatted(run, verb, spec, element, depth + 1) for element in value.elements])}]"
