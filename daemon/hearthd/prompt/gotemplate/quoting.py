"""Quoted text as Go writes and reads it: https://go.dev/ref/spec#String_literals, package strconv."""

from __future__ import annotations

import re

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_NAMED = {value: f"\\{key}" for key, value in _ESCAPES.items()}
_ESCAPED = re.compile(
    r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))|(\\)|([^\\]+)", re.DOTALL
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PLAIN = re.compile(r"[ !#-\[\]-~]*\Z")


def utf8(text: str) -> bytes:
    """The bytes of a Go string; those of broken UTF-8 travel in Python's text as surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def from_utf8(data: bytes) -> str:
    """The opposite of utf8()."""
    return data.decode("utf-8", "surrogateescape")


def clean(text: str) -> str:
    """`text` with U+FFFD in place of what is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return utf8(text).decode("utf-8", "replace")
    return text


def unquote(literal: str) -> str:
    """The text of a string constant with its quotes. ValueError where Go refuses it."""
    quote, body = literal[0], literal[1:-1]
    if quote == "`":
        return body.replace("\r", "")
    if "\\" not in body:
        return body
    return from_utf8(b"".join(_pieces(body, quote)))


def unquote_char(literal: str) -> int:
    """The code point of a character constant with its quotes. ValueError where Go refuses it."""
    body = literal[1:-1]
    if body == "'" or not body:
        raise ValueError("invalid syntax")
    if body[0] != "\\":
        first, rest = ord(body[0]), body[1:]
    else:
        match = _ESCAPED.match(body)
        first, rest = (_code(match, "'"), body[match.end() :]) if match and match[6] is None else (-1, "")
    if first < 0:
        raise ValueError("invalid syntax")
    if rest:
        raise ValueError(f"malformed character constant: {literal}")
    return first


def _pieces(body: str, quote: str) -> list[bytes]:
    found = []
    for match in _ESCAPED.finditer(body):
        if match[7] is not None:
            found.append(utf8(match[7]))
            continue
        code = _code(match, quote)
        if code < 0:
            raise ValueError("invalid syntax")
        is_byte = match[2] is not None or match[3] is not None
        found.append(bytes([code]) if is_byte else utf8(chr(code)))
    return found


def _code(match: re.Match[str], quote: str) -> int:
    """The number that an escape stands for; -1 where it is none."""
    simple, two, octal, four, eight, broken, _ = match.groups()
    if broken is not None:
        return -1
    if simple is not None:
        if simple in "'\"":
            return ord(simple) if simple == quote else -1
        return ord(_ESCAPES[simple])
    code = int(octal, 8) if octal is not None else int(two or four or eight, 16)
    if octal is not None:
        return code if code < 256 else -1
    return -1 if 0xD800 <= code < 0xE000 or code > 0x10FFFF else code


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """`text` in quotes with Go's escapes (%q, or %+q with `ascii_only`)."""
    if mark == '"' and _PLAIN.match(text):
        return f'"{text}"'
    return mark + "".join([_quoted(char, mark, ascii_only) for char in text]) + mark


def _quoted(char: str, mark: str, ascii_only: bool) -> str:
    code = ord(char)
    if char in (mark, "\\"):
        return f"\\{char}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    if code < 128 or not ascii_only:
        if char == " " or (char.isprintable() and not char.isspace()):
            return char
        if char in _NAMED:
            return _NAMED[char]
    if code < 32 or code == 127:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
