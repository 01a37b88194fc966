"""A client of many streams at once: it notes what arrives when, and reads it only after the last byte."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 600.0


@dataclass(slots=True)
class Stream:
    """One request and the bytes of its answer, each with the moment (perf_counter) it arrived."""

    port: int
    path: str
    body: dict[str, Any]
    started: float = 0.0
    received: list[tuple[float, bytes]] = field(default_factory=list)
    ended: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> Stream:
        """Sends the request and returns when the server closes the connection. SystemExit where it never does."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._talk()
        except TimeoutError:
            raise SystemExit(f"bench: no end of {self.path} within {PATIENCE_S:g} s") from None
        finally:
            self.ended = True
            self._news.set()
        return self

    async def _talk(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(connection, ("127.0.0.1", self.port))
            self.started = time.perf_counter()
            await loop.sock_sendall(connection, self._request())
            while data := await loop.sock_recv(connection, 1 << 16):
                self.received.append((time.perf_counter(), data))
                self._news.set()

    async def arrived(self, num_reads: int) -> None:
        """Returns when so many reads brought bytes, or the stream ended."""
        while len(self.received) < num_reads and not self.ended:
            self._news.clear()
            await self._news.wait()

    def objects(self) -> list[tuple[float, dict[str, Any]]]:
        """The JSON objects of the answer, lines of NDJSON or of server-sent events, with their moments."""
        found = list(json_lines(self.received))
        if not found:
            raise SystemExit(f"bench: {self.path} answered {b''.join(data for _, data in self.received)[:500]!r}")
        if error := found[-1][1].get("error"):
            raise SystemExit(f"bench: {self.path} failed: {error}")
        return found

    def _request(self) -> bytes:
        content = json.dumps(self.body).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        return head.encode() + content


def json_lines(received: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Objects that stand alone on a line, `data: ` before them or not, of a chunked or plain body."""
    rest, last = b"", 0.0
    for moment, data in received:
        *lines, rest = (rest + data).split(b"\n")
        last = moment
        for line in lines:
            if (content := line.removeprefix(b"data: ")).startswith(b"{"):
                yield moment, json.loads(content)
    if (content := rest.removeprefix(b"data: ")).startswith(b"{"):
        yield last, json.loads(content)


async def together(streams: list[Stream]) -> list[Stream]:
    """All of them at once; returns when the last one ended."""
    return list(await asyncio.gather(*(stream.run() for stream in streams)))
