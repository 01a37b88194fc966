from __future__ import annotations

import fcntl
import os

from hearthd.transfer.answers import Answers
from hearthd.transfer.messages import Failed, Finished, Moved, decode_answer


def read_all(fd: int) -> list[Moved | Finished | Failed]:
    with os.fdopen(fd, "rb") as stream:
        return [decode_answer(line) for line in stream]


def test_daemon_that_does_not_read_delays_nobody_and_misses_only_old_progress() -> None:
    read_fd, write_fd = os.pipe()
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_fd, b'{"type":"finished","id":0}\n' * (4096 // 27))
    answers = Answers(write_fd)
    for done in range(100_001):
        answers.move(1, done, 100_000)
    answers.put(Finished(1))
    answers.put(Failed(2, "no"))
    lines = iter(read_all_after_close(answers, read_fd, write_fd))
    told = [line for line in lines if line.id]
    assert told[-3:] == [Moved(1, 100_000, 100_000), Finished(1), Failed(2, "no")]
    assert len(told) < 100


def read_all_after_close(answers: Answers, read_fd: int, write_fd: int) -> list[Moved | Finished | Failed]:
    """Reads what fits into the pipe, then the rest."""
    head = os.read(read_fd, 4096)
    answers.close()
    os.close(write_fd)
    return [decode_answer(line) for line in head.splitlines()] + read_all(read_fd)


def test_progress_is_told_before_the_end_of_its_job() -> None:
    read_fd, write_fd = os.pipe()
    answers = Answers(write_fd)
    answers.move(1, 5, 9)
    answers.put(Failed(1, "no"))
    answers.close()
    os.close(write_fd)
    assert read_all(read_fd) == [Moved(1, 5, 9), Failed(1, "no")]


def test_reader_that_is_gone_is_no_failure() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    answers = Answers(write_fd)
    answers.put(Finished(1))
    answers.close()
    os.close(write_fd)
