"""A TCP proxy on loopback that counts bytes and can cut the line or let requests hang."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STEP_BYTES = 1 << 16


class Proxy:
    """Carries connections to `port`; give clients `host`."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.host = f"localhost:{self.port}"
        self.num_sent_bytes = 0  # from clients to the registry
        self.num_received_bytes = 0  # from the registry to clients
        self.num_connections = 0
        self.held = threading.Event()  # the request to be held came
        self._cut_at: int | None = None
        self._hold_at: tuple[bytes, int] | None = None
        self._open = threading.Event()
        self._open.set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, num_bytes: int) -> None:
        """Break every connection, once, when so many more bytes went to the registry."""
        self._cut_at = self.num_sent_bytes + num_bytes

    def hold_request(self, method: str, number: int) -> None:
        """Nothing reaches the registry any more from the `number`th request of that method on, counted from now."""
        self.held.clear()
        self._hold_at = (f"{method} ".encode(), number)

    def let_go(self) -> None:
        """Everything passes again."""
        self._open.set()

    def cut(self) -> None:
        """Break every connection; what is on its way is lost."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """No more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._open.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.num_connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._target) as registry:
            with self._lock:
                self._sockets |= {client, registry}
            back = threading.Thread(target=self._carry, args=(registry, client), daemon=True)
            back.start()
            self._carry(client, registry, counted=True)
            back.join()

    def _carry(self, source: socket.socket, target: socket.socket, *, counted: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(STEP_BYTES):
                if counted:
                    self._wait_if_due(data)
                target.sendall(data)
                if counted:
                    self._count(len(data))
                else:
                    self._count_received(len(data))
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _wait_if_due(self, data: bytes) -> None:
        with self._lock:
            if self._hold_at is not None and data.startswith(self._hold_at[0]):
                method, number = self._hold_at
                self._hold_at = (method, number - 1) if number > 1 else None
                if number == 1:
                    self._open.clear()
                    self.held.set()
        self._open.wait()

    def _count_received(self, num_bytes: int) -> None:
        with self._lock:
            self.num_received_bytes += num_bytes

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.num_sent_bytes += num_bytes
            due = self._cut_at is not None and self.num_sent_bytes >= self._cut_at
            if due:
                self._cut_at = None
        if due:
            self.cut()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy before `port`."""
    line = Proxy(port)
    try:
        yield line
    finally:
        line.close()
