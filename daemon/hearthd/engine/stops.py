"""Stop strings over token borders: text that may begin a stop is held back until it is decided."""

from __future__ import annotations

from collections.abc import Iterable


class _Stop:
    """One stop string and how much of it the text seen so far ends with (Knuth, Morris, Pratt 1977)."""

    __slots__ = ("_fallback", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0  # characters
        self._fallback = _borders(text)

    def advance(self, character: str) -> bool:
        """Whether the stop is complete with this character. Constant cost a character on average."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        if self.text[self.matched] == character:
            self.matched += 1
        return self.matched == len(self.text)


def _borders(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        if text[index] == text[length]:
            length += 1
        borders[index] = length
    return borders


class StopMatcher:
    """Cuts a text before the stop string that is complete first; of two complete at once, before the longer."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = [_Stop(text) for text in dict.fromkeys(stops) if text]
        self._beginnings = frozenset(stop.text[0] for stop in self._stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that is now certain to precede every stop, maybe none; sets `stopped` at a stop."""
        if not self._held and self._beginnings.isdisjoint(text):
            return text
        for index, character in enumerate(text):
            complete = [stop for stop in self._stops if stop.advance(character)]
            if complete:
                return self._cut(self._held + text[: index + 1], max(len(stop.text) for stop in complete))
        held = max(stop.matched for stop in self._stops)
        text = self._held + text
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _cut(self, text: str, num_characters: int) -> str:
        self.stopped = True
        self._held = ""
        return text[: len(text) - num_characters]

    def flush(self) -> str:
        """The text still held back, when generation ends without a stop."""
        held, self._held = self._held, ""
        return held
