"""What a check finds, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hearthd.access import Account
from hearthd.config import Config
from hearthd.store.blobs import BlobStore


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """What is looked at."""

    environ: Mapping[str, str]
    config: Config
    blobs: BlobStore
    verify: bool  # whether blobs are hashed, which takes long
    root: Path = Path("/")  # of the file system whose service is looked at
    account: Account | None = None  # whom the daemon runs as; None: this process's user


Check = Callable[[Device], Iterator[Finding]]


def ok(text: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.OK, text)


def warning(text: str, advice: str) -> Finding:
    """It works, but not as one might think."""
    return Finding(Verdict.WARNING, text, advice)


def failure(text: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(Verdict.FAIL, text, advice)


def counted(number: int, one: str, many: str = "") -> str:
    """`1 blob`, `2 blobs`."""
    return f"{number} {one}" if number == 1 else f"{number} {many or one + 's'}"


def amount(num_bytes: int) -> str:
    """`1.2 GB`."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
