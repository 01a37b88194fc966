"""The runner's end of the socket to the daemon."""

from __future__ import annotations

import select
import socket
import threading

from hearthd.engine.frames import MAX_FRAME_BYTES, PREFIX_BYTES, Frame, ToRunner, pack, to_runner_decoder


class Closed(Exception):
    """The daemon has closed its end, or is gone."""


class Channel:
    """Frames over a connected stream socket; any thread may send, one may receive."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._send_lock = threading.Lock()
        self._arrival = select.poll()
        self._arrival.register(connection, select.POLLIN)

    def send(self, *frames: Frame) -> None:
        """Returns when the kernel has the frames whole; a daemon that does not read blocks it. Raises Closed."""
        content = pack(frames[0]) if len(frames) == 1 else b"".join(map(pack, frames))
        try:
            with self._send_lock:
                self._socket.sendall(content)
        except OSError as error:
            raise Closed from error

    def receive(self) -> ToRunner:
        """The next frame. Raises Closed, or ValueError for one that is no frame."""
        num_bytes = int.from_bytes(self._read(PREFIX_BYTES), "little")
        if num_bytes > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {num_bytes} bytes exceeds the bound of {MAX_FRAME_BYTES}")
        return to_runner_decoder.decode(self._read(num_bytes))

    def _read(self, num_bytes: int) -> bytearray:
        content = bytearray(num_bytes)
        rest = memoryview(content)
        while rest:
            try:
                # a thread asleep in recv wakes up whenever the daemon has read what another one sent: at each token
                self._arrival.poll()
                count = self._socket.recv_into(rest)
            except OSError as error:
                raise Closed from error
            if not count:
                raise Closed
            rest = rest[count:]
        return content
