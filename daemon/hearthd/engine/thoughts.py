"""The tags around a model's thoughts, found in a text that comes token by token, over their borders."""

from __future__ import annotations

from collections.abc import Iterator

from hearthd.engine.vocabulary import BLANKS, Vocabulary


class Opening:
    """The tag that an answer may begin with."""

    def __init__(self, tag: str) -> None:
        self._tag = tag.encode()
        self._num_matched = 0  # bytes

    @property
    def complete(self) -> bool:
        """Whether the answer began with the whole tag."""
        return self._num_matched >= len(self._tag)

    def continuations(self, vocabulary: Vocabulary) -> list[int]:
        """The tokens that go on with the tag."""
        return [token for token, _ in vocabulary.along(self._tag[self._num_matched :])]

    def add(self, text: bytes) -> bytes | None:
        """What follows the tag in `text`, nothing while it is incomplete; None where `text` leads away from it."""
        rest = self._tag[self._num_matched :]
        if not (text and (rest.startswith(text) or text.startswith(rest))):
            return None
        self._num_matched += len(text)
        return text[len(rest) :]


class Closing:
    """The tag that ends the thoughts."""

    def __init__(self, tag: str) -> None:
        self._tag = tag.encode()
        self._last = b""  # of the thoughts, shorter than the tag

    def add(self, text: bytes) -> bytes | None:
        """What follows the tag, blanks at its beginning dropped; None while the thoughts go on."""
        _, tag, tail = (self._last + text).partition(self._tag)
        if tag:
            return tail.lstrip(BLANKS)
        self._last = (self._last + text)[-len(self._tag) + 1 :] if len(self._tag) > 1 else b""
        return None

    def endings(self, vocabulary: Vocabulary) -> Iterator[tuple[int, bytes]]:
        """The tokens that now complete the tag and go on with more than blanks, each with that."""
        for length in range(len(self._tag)):
            if self._last.endswith(self._tag[:length]):
                rest = self._tag[length:]
                for token, tail in vocabulary.along(rest):
                    if tail.strip(BLANKS) and vocabulary.shown[token].startswith(rest):
                        yield token, tail.lstrip(BLANKS)
