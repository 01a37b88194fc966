"""Matrices on their way into the data file: chunks of rows, unpacked, packed and written by several threads at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from hearth_export.checkpoint import Tensors
from hearth_export.quantize import Matrix, Part, pack_rows, release, spans
from hearth_export.writer import DataFile

MAX_THREADS = 4  # each takes some 10 MiB


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows start..stop of a part, and which row of the matrix the first of them is."""

    matrix: Matrix
    part: Part
    start: int
    stop: int
    row: int

    def write(self, tensors: Tensors, file: DataFile) -> int:
        """Writes the rows; the bytes written."""
        packed = pack_rows(tensors, self.part, self.start, self.stop, self.matrix.layout)
        num_bytes = self.matrix.write(file, self.row, packed)
        release(tensors, self.part)
        return num_bytes


def write_matrices(
    matrices: Iterable[Matrix], tensors: Tensors, file: DataFile, num_threads: int = 0
) -> Generator[int, None, None]:
    """Writes all matrices, yielding the bytes written after each chunk of rows. Close it where it is left early.

    With `num_threads` 0 it takes as many as the process has cores, at most MAX_THREADS. The file's bytes are the same
    whatever their number, since every chunk has its place. Raises the error of the first chunk that fails, in the
    order of the file.
    """
    threads = num_threads or min(MAX_THREADS, len(os.sched_getaffinity(0)))
    chunks = _chunks(matrices)
    if threads == 1:
        return (chunk.write(tensors, file) for chunk in chunks)
    return _write_threaded(chunks, tensors, file, threads)


def _chunks(matrices: Iterable[Matrix]) -> Iterator[Chunk]:
    for matrix in matrices:
        first_row = 0
        for part in matrix.parts:
            for start, stop in spans(part, matrix.layout.num_inputs):
                yield Chunk(matrix, part, start, stop, first_row + start)
            first_row += part.num_rows


def _write_threaded(
    chunks: Iterator[Chunk], tensors: Tensors, file: DataFile, num_threads: int
) -> Generator[int, None, None]:
    pool = ThreadPoolExecutor(num_threads, "chunks")
    begun: deque[Future[int]] = deque()
    try:
        for chunk in chunks:
            begun.append(pool.submit(chunk.write, tensors, file))
            if len(begun) > num_threads:  # one waits, so that no thread does
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # the file may be closed after this
