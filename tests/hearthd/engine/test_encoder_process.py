"""The process of a loaded encoder, spoken to in frames over a socket."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hearthd.engine.frames import (
    Cancel,
    Embed,
    Embedded,
    Failed,
    Frame,
    FromRunner,
    Generate,
    Leave,
    Load,
    Loaded,
    LoadFailure,
    Ping,
    Pong,
    Tokenize,
    Tokens,
    Trim,
    Trimmed,
    from_runner_decoder,
    pack,
)
from tests.tiny_encoder import CLS, CONTEXT_LENGTH, HIDDEN_SIZE, SEP, write_tiny_encoder

PATIENCE_S = 30.0


class Peer:
    """The daemon's end."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.process = process
        self.socket = connection
        connection.settimeout(PATIENCE_S)

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(map(pack, frames)))

    def receive(self) -> FromRunner:
        size = int.from_bytes(self._read(4), "little")
        return from_runner_decoder.decode(self._read(size))

    def ask(self, frame: Frame) -> FromRunner:
        self.send(frame)
        return self.receive()

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            more = self.socket.recv(size - len(content))
            assert more, "the runner closed its socket"
            content += more
        return content


@contextmanager
def started() -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [sys.executable, "-m", "hearthd.engine", "--fd", str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        try:
            yield Peer(process, ours)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.float32]]:
    directory = tmp_path_factory.mktemp("encoder")
    return directory, write_tiny_encoder(directory)


@pytest.fixture(scope="module")
def peer(encoder: tuple[Path, NDArray[np.float32]]) -> Iterator[Peer]:
    with started() as peer:
        assert isinstance(peer.ask(Load(str(encoder[0]), 32)), Loaded)
        yield peer


def test_loaded_tells_the_window_and_what_the_model_takes(encoder: tuple[Path, NDArray[np.float32]]) -> None:
    with started() as peer:
        answer = peer.ask(Load(str(encoder[0]), 10**6, num_slots=4, kv_type="q8_0"))
        assert isinstance(answer, Loaded)
        assert (answer.num_ctx, answer.num_slots, answer.size_vram_bytes) == (CONTEXT_LENGTH, 1, 0)
        assert answer.size_bytes > answer.resident_bytes > 0


def test_texts_get_their_vectors_whatever_they_are_read_with(
    peer: Peer, encoder: tuple[Path, NDArray[np.float32]]
) -> None:
    texts = ["a", "hello world", "", "abc"]
    answer = peer.ask(Embed(1, [*texts], normalize=False))
    assert isinstance(answer, Embedded)
    found = np.frombuffer(answer.vectors, "<f4").reshape(len(texts), HIDDEN_SIZE)
    for text, vector in zip(texts, found, strict=True):
        tokens = peer.ask(Tokenize(2, text))
        assert isinstance(tokens, Tokens)
        expected = encoder[1][[CLS, *tokens.ids, SEP]].mean(axis=0)
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)
    assert answer.prompt_count == sum(map(len, texts)) + 2 * len(texts)


def test_a_text_beyond_the_window_keeps_its_last_token(peer: Peer, encoder: tuple[Path, NDArray[np.float32]]) -> None:
    answer = peer.ask(Embed(1, ["x" * 5000], normalize=False))
    assert isinstance(answer, Embedded)
    (x,) = peer.ask(Tokenize(2, "x")).ids  # type: ignore[union-attr]
    np.testing.assert_allclose(
        np.frombuffer(answer.vectors, "<f4"), encoder[1][[CLS, *[x] * 30, SEP]].mean(axis=0), rtol=1e-5, atol=1e-6
    )
    assert answer.prompt_count == 32
    refused = peer.ask(Embed(1, ["x" * 5000], truncate=False))
    assert refused == Failed(1, "the input length exceeds the context length", 400)


def test_text_is_not_generated(peer: Peer) -> None:
    answer = peer.ask(Generate(3, "hello"))
    assert isinstance(answer, Failed)
    assert (answer.id, answer.status) == (3, 400)
    assert "makes embeddings, not text" in answer.message


def test_a_ping_and_a_short_request_are_answered_while_a_long_one_is_read(peer: Peer) -> None:
    peer.send(Embed(1, ["x" * 30] * 20_000), Ping(2), Embed(3, ["short"]))
    order = [(type(frame), frame.id) for frame in (peer.receive() for _ in range(3))]  # type: ignore[union-attr]
    assert order == [(Pong, 2), (Embedded, 3), (Embedded, 1)]


def test_a_cancelled_request_is_not_answered(peer: Peer) -> None:
    peer.send(Embed(1, ["x" * 30] * 20_000), Cancel(1), Embed(2, ["a"]))
    answer = peer.receive()
    assert isinstance(answer, Embedded)
    assert answer.id == 2
    assert peer.ask(Embed(3, ["a"])).id == 3  # type: ignore[union-attr]


def test_memory_is_given_back_when_it_is_asked_for(peer: Peer) -> None:
    assert isinstance(peer.ask(Trim(4, 2)), Trimmed)
    assert isinstance(peer.ask(Embed(5, ["a"])), Embedded)


def test_the_process_leaves_when_it_is_told(encoder: tuple[Path, NDArray[np.float32]]) -> None:
    with started() as peer:
        assert isinstance(peer.ask(Load(str(encoder[0]), 32)), Loaded)
        peer.send(Leave())
        assert peer.process.wait(PATIENCE_S) == 0


def test_without_weights_tokens_are_counted_and_vectors_refused(encoder: tuple[Path, NDArray[np.float32]]) -> None:
    with started() as peer:
        assert isinstance(peer.ask(Load(str(encoder[0]), 32, vocab_only=True)), Loaded)
        assert isinstance(peer.ask(Tokenize(1, "abc")), Tokens)
        answer = peer.ask(Embed(2, ["a"]))
        assert isinstance(answer, Failed)
        assert "vocab_only" in answer.message


def test_a_damaged_graph_is_told_in_a_sentence(tmp_path: Path) -> None:
    write_tiny_encoder(tmp_path)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    with started() as peer:
        assert isinstance(peer.ask(Load(str(tmp_path), 32)), LoadFailure)
