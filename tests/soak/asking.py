"""Requests of many clients at once: what arrived when, and how each of them ended."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

PATIENCE_S = 300.0  # a request that takes longer hangs

Fields = dict[str, Any]


@dataclass(slots=True)
class Asked:
    """A request and its answer's bytes, each with the moment it arrived. `left` if the client went away on purpose."""

    path: str
    body: Fields
    started: float = 0.0
    ended: float = 0.0
    received: list[tuple[float, bytes]] = field(default_factory=list)
    left: bool = False
    fault: str = ""  # of the connection

    @property
    def status(self) -> int:
        """Of HTTP; 0 where none came."""
        head = self.received[0][1].split(b" ", 2) if self.received else []
        return int(head[1]) if len(head) > 1 else 0

    def objects(self) -> list[tuple[float, Fields]]:
        """The JSON objects that arrived, with their moments."""
        found, rest = [], b""
        for moment, data in self.received:
            *lines, rest = (rest + data).split(b"\n")
            found += [(moment, json.loads(line)) for line in lines if line.startswith(b"{")]
        if rest.startswith(b"{") and rest.endswith(b"}"):
            found.append((self.received[-1][0], json.loads(rest)))
        return found

    def last(self) -> Fields:
        """The last object; {} where none came."""
        objects = self.objects()
        return objects[-1][1] if objects else {}

    def text(self) -> str:
        """Of the whole answer."""
        return "".join(
            line.get("response", "") or line.get("message", {}).get("content", "") for _, line in self.objects()
        )

    def verdict(self) -> str:
        """How it ended: "answer", "left", or the error it was told. AssertionError where it just broke off."""
        if self.left:
            return "left"
        last = self.last()
        if last.get("done") is True and not self.fault:
            return "answer"
        error = last.get("error")
        assert isinstance(error, str) and error, (
            f"{self.path} {self.body} ended without answer or error after {self.ended - self.started:.1f} s: "
            f"{self.fault or 'the connection was closed'}, {len(self.received)} reads, last object {last}"
        )
        return error

    def gaps_s(self) -> list[float]:
        """Times between two pieces of a streamed answer."""
        moments = [moment for moment, line in self.objects() if not line.get("done")]
        return [after - before for before, after in pairwise(moments)]


@dataclass(frozen=True, slots=True)
class Leave:
    """When a client goes away before its answer is complete: after so many reads, or so many seconds."""

    reads: int = 1 << 30
    seconds: float = PATIENCE_S


async def ask(port: int, path: str, body: Fields, leave: Leave | None = None) -> Asked:
    """Sends one request and reads until the server closes, the client leaves or patience ends."""
    asked = Asked(path, body, time.monotonic())
    patience_s = PATIENCE_S if leave is None else leave.seconds
    try:
        async with asyncio.timeout(patience_s):
            await _exchange(asked, port, leave or Leave())
    except TimeoutError:
        asked.left = leave is not None
        asked.fault = f"nothing came within {patience_s:g} s"
    except OSError as error:
        asked.fault = str(error)
    asked.ended = time.monotonic()
    return asked


async def _exchange(asked: Asked, port: int, leave: Leave) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_request(asked.path, asked.body))
        while data := await reader.read(1 << 16):
            asked.received.append((time.monotonic(), data))
            if len(asked.received) >= leave.reads:
                asked.left = True
                return
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def _request(path: str, body: Fields) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content
