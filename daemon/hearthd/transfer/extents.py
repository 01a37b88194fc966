"""Which bytes of a file are there, and which are still to be fetched. Pure: no file is touched here."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple


class Extent(NamedTuple):
    """The bytes from `start` up to, and without, `end`."""

    start: int
    end: int

    @property
    def num_bytes(self) -> int:
        """How many they are."""
        return self.end - self.start


class Extents:
    """A set of bytes, as the fewest extents in order."""

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        self._sorted: list[Extent] = []
        self.num_bytes = 0
        for extent in extents:
            self.add(extent)

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._sorted)

    @property
    def front(self) -> int:
        """How many bytes are there from the beginning, without a hole."""
        return self._sorted[0].end if self._sorted and self._sorted[0].start == 0 else 0

    def add(self, extent: Extent) -> None:
        """Add bytes; some may be there already."""
        if extent.start >= extent.end:
            return
        first = bisect_left(self._sorted, extent.start, key=attrgetter("end"))
        last = bisect_right(self._sorted, extent.end, key=attrgetter("start"))
        touched = self._sorted[first:last]
        merged = extent
        if touched:
            merged = Extent(min(extent.start, touched[0].start), max(extent.end, touched[-1].end))
        self._sorted[first:last] = [merged]
        self.num_bytes += merged.num_bytes - sum(old.num_bytes for old in touched)

    def holes(self, within: Extent) -> list[Extent]:
        """What is missing of `within`, in order."""
        holes, position = [], within.start
        for extent in self._sorted[bisect_right(self._sorted, position, key=attrgetter("end")) :]:
            if position >= within.end:
                break
            if position < extent.start:
                holes.append(Extent(position, min(extent.start, within.end)))
            position = extent.end
        if position < within.end:
            holes.append(Extent(position, within.end))
        return holes


class Parts:
    """What is still to be fetched, handed out from the front in parts."""

    def __init__(self, missing: Iterable[Extent]) -> None:
        self._heap = list(missing)
        heapq.heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def take(self, max_bytes: int) -> Extent | None:
        """The next part, of at most `max_bytes`; None where nothing is left."""
        if not self._heap:
            return None
        extent = self._heap[0]
        part = Extent(extent.start, min(extent.end, extent.start + max_bytes))
        if part.end == extent.end:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, Extent(part.end, extent.end))
        return part

    def take_all(self) -> list[Extent]:
        """All that is left, in order."""
        taken, self._heap = sorted(self._heap), []
        return taken

    def give_back(self, extent: Extent) -> None:
        """What was taken and not fetched."""
        if extent.start < extent.end:
            heapq.heappush(self._heap, extent)
