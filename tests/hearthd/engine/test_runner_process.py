"""The runner's process, spoken to in frames over a socket."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hearthd.engine.frames import (
    Cancel,
    Done,
    Failed,
    Frame,
    FromRunner,
    Generate,
    Grammar,
    Load,
    Loaded,
    LoadFailure,
    Piece,
    SamplingParams,
    Tokenize,
    Tokens,
    from_runner_decoder,
    pack,
)

PATIENCE_S = 30.0
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14  # linux/prctl.h, linux/capability.h
VARIED = SamplingParams(temperature=0.0, repeat_penalty=100.0, repeat_last_n=16)  # never loops, never ends


class Peer:
    """The daemon's end."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self.process = process
        self.socket = connection
        connection.settimeout(PATIENCE_S)

    def send(self, frame: Frame) -> None:
        self.socket.sendall(pack(frame))

    def receive(self) -> FromRunner:
        size = int.from_bytes(self._read(4), "little")
        return from_runner_decoder.decode(self._read(size))

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            more = self.socket.recv(size - len(content))
            assert more, "the runner closed its socket"
            content += more
        return content

    def answers(self, request_id: int) -> list[FromRunner]:
        """All frames up to the last one of a request."""
        frames: list[FromRunner] = []
        while not (frames and isinstance(frames[-1], Done | Failed) and frames[-1].id == request_id):
            frames.append(self.receive())
        return frames


@contextmanager
def started(prepare: Callable[[], None] | None = None, stderr: int | None = None) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            fd = theirs.fileno()
            command = [sys.executable, "-m", "hearthd.engine", "--fd", str(fd)]
            process = subprocess.Popen(command, pass_fds=[fd], preexec_fn=prepare, stderr=stderr)
        try:
            yield Peer(process, ours)
        finally:
            process.kill()
            process.wait()


@contextmanager
def loaded(variant: Path, num_ctx: int = 65536, num_batch: int = 512) -> Iterator[tuple[Peer, Loaded]]:
    with started() as peer:
        peer.send(Load(str(variant), num_ctx, num_batch=num_batch))
        answer = peer.receive()
        assert isinstance(answer, Loaded)
        yield peer, answer


def test_loaded_tells_what_the_model_takes(tiny_variant: Path) -> None:
    with loaded(tiny_variant, num_ctx=128) as (_, answer):
        assert answer.num_ctx == 128
        assert answer.size_bytes > 0
        assert answer.provider == "cpu"
        assert answer.load_ns > 0


def test_the_runner_ends_when_its_socket_closes(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        peer.socket.close()
        assert peer.process.wait(PATIENCE_S) == 0


def test_the_runner_ends_when_its_socket_closes_while_it_generates(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        peer.send(Generate(1, "hello", sampling=VARIED))
        assert isinstance(peer.receive(), Piece)
        peer.socket.close()
        assert peer.process.wait(PATIENCE_S) == 0


def test_the_runner_ends_when_its_socket_closes_before_load() -> None:
    with started() as peer:
        peer.socket.close()
        assert peer.process.wait(PATIENCE_S) == 0


def test_a_model_that_does_not_load_is_told_and_ends_the_process(tmp_path: Path) -> None:
    with started() as peer:
        peer.send(Load(str(tmp_path / "nowhere"), 64))
        answer = peer.receive()
        assert isinstance(answer, LoadFailure)
        assert "nowhere" in answer.message
        assert peer.process.wait(PATIENCE_S) == 1


def test_cancel_is_answered_while_generating(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        peer.send(Generate(1, "hello", sampling=VARIED))
        assert isinstance(peer.receive(), Piece)
        peer.send(Cancel(1))
        done = peer.answers(1)[-1]
        assert isinstance(done, Done)
        assert done.reason == "cancel"
        assert done.prompt_count + done.eval_count < 65536


def test_cancel_is_answered_between_two_chunks_of_a_prompt(tiny_variant: Path) -> None:
    with loaded(tiny_variant, num_batch=8) as (peer, _):
        peer.send(Generate(1, "ab cd " * 20_000, sampling=VARIED))
        peer.send(Cancel(1))
        [done] = peer.answers(1)
        assert isinstance(done, Done)
        assert (done.reason, done.eval_count) == ("cancel", 0)


def test_cancel_of_a_queued_request_is_answered_while_another_generates(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        peer.send(Generate(1, "hello", sampling=VARIED))
        peer.send(Generate(2, "world", sampling=VARIED))
        peer.send(Cancel(2))
        frames = peer.answers(2)
        assert not any(isinstance(frame, Done) and frame.id == 1 for frame in frames)
        peer.send(Cancel(1))
        peer.answers(1)


def test_tokenize_is_answered_while_another_request_generates(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        peer.send(Generate(1, "hello", sampling=VARIED))
        peer.send(Tokenize(2, "<|im_start|>the"))
        while not isinstance(frame := peer.receive(), Tokens):
            assert isinstance(frame, Piece)
        assert (frame.id, frame.ids[0], len(frame.ids)) == (2, 1, 2)


def test_a_daemon_that_does_not_read_blocks_the_runner_until_it_reads_again(tiny_variant: Path) -> None:
    with loaded(tiny_variant, num_ctx=4096) as (peer, _):
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.send(Generate(1, "hello", sampling=VARIED, num_predict=3000))
        select.select([peer.socket], [], [], PATIENCE_S)
        time.sleep(0.2)
        done = peer.answers(1)[-1]
        assert isinstance(done, Done)
        assert done.eval_count == 3000


def test_an_interrupt_from_the_terminal_is_left_to_the_daemon(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        os.kill(peer.process.pid, signal.SIGINT)
        peer.send(Generate(1, "hello", num_predict=1))
        assert isinstance(peer.answers(1)[-1], Done)


def test_the_runner_is_offered_to_the_oom_killer_before_the_daemon(tiny_variant: Path) -> None:
    with loaded(tiny_variant) as (peer, _):
        own = int(Path("/proc/self/oom_score_adj").read_text())
        its = int(Path(f"/proc/{peer.process.pid}/oom_score_adj").read_text())
        assert its == max(own, 500)


def test_the_runner_dies_with_the_process_that_started_it(tiny_variant: Path) -> None:
    # the parent leaves the other end open in this process, so only the death signal can end the runner
    ours, theirs = socket.socketpair()
    script = (
        "import subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'hearthd.engine', '--fd', sys.argv[1]]\n"
        "child = subprocess.Popen(command, pass_fds=[int(sys.argv[1])])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    fd = theirs.fileno()
    with ours, theirs:
        parent = subprocess.Popen([sys.executable, "-c", script, str(fd)], pass_fds=[fd], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        with parent.stdout:
            pid = int(parent.stdout.readline())
            peer = Peer(parent, ours)
            peer.send(Load(str(tiny_variant), 64))
            assert isinstance(peer.receive(), Loaded)
            watch = os.pidfd_open(pid)
            try:
                parent.kill()
                parent.wait()
                ended, _, _ = select.select([watch], [], [], PATIENCE_S)
                assert ended
            finally:
                os.close(watch)


@pytest.mark.parametrize("content", [b"\xff\xff\xff\xff", pack(Cancel(1)), b"\x01\x00\x00\x00\xc1"])
def test_a_first_frame_that_is_not_load_ends_the_process(content: bytes) -> None:
    with started() as peer:
        peer.socket.sendall(content)
        assert peer.process.wait(PATIENCE_S) == 1


@pytest.mark.parametrize("arguments", [[], ["--fd"], ["--fd", "x"], ["--serve"]])
def test_wrong_arguments_print_the_usage(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "hearthd.engine", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def memory_kib(peer: Peer, key: str) -> int:
    """A line of the runner's /proc/PID/status."""
    lines = Path(f"/proc/{peer.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def text_of(peer: Peer, prompt: str) -> str:
    peer.send(Generate(1, prompt, sampling=VARIED, num_predict=8))
    return "".join(frame.text for frame in peer.answers(1) if isinstance(frame, Piece))


def test_without_mmap_the_weights_lie_in_memory_of_the_process(smollm2_variant: Path) -> None:
    found: dict[bool, tuple[str, int]] = {}
    for use_mmap in (True, False):
        with started() as peer:
            peer.send(Load(str(smollm2_variant), 256, use_mmap=use_mmap))
            assert isinstance(peer.receive(), Loaded)
            text = text_of(peer, "<|im_start|>user\nHello<|im_end|>\n")
            found[use_mmap] = text, memory_kib(peer, "RssAnon")
    assert found[True][0] == found[False][0] != ""
    assert found[False][1] - found[True][1] > 20 << 10  # the embedding's table alone is 29 MiB


def may_lock(num_bytes: int) -> bool:
    """Whether a process that this one starts may lock so much: by the limit, or with a capability."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    capable = int(line.split()[1], 16) >> CAP_IPC_LOCK & 1
    return bool(capable) or hard == resource.RLIM_INFINITY or hard > num_bytes


def test_use_mlock_locks_the_weights_but_not_the_empty_kv_cache(smollm2_variant: Path) -> None:
    if not may_lock(400 << 20):
        pytest.skip("this process may not lock 400 MiB of memory (RLIMIT_MEMLOCK)")
    with started() as peer:
        peer.send(Load(str(smollm2_variant), 8192, use_mlock=True))
        assert isinstance(peer.receive(), Loaded)
        assert memory_kib(peer, "VmLck") > 100 << 10
        assert memory_kib(peer, "VmRSS") < 340 << 10  # keys and values of 8192 tokens would be 360 MiB more


def forbid_locking() -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)


def test_a_limit_that_forbids_locking_is_named_in_a_warning_and_the_model_serves(tiny_variant: Path) -> None:
    with started(forbid_locking, subprocess.PIPE) as peer:
        peer.send(Load(str(tiny_variant), 256, use_mlock=True))
        assert isinstance(peer.receive(), Loaded)
        assert text_of(peer, "hello") != ""
        assert memory_kib(peer, "VmLck") == 0
        peer.socket.close()
        assert peer.process.stderr is not None
        with peer.process.stderr:
            log = peer.process.stderr.read().decode()
    assert "WARNING" in log and "RLIMIT_MEMLOCK" in log and "use_mlock" in log


def test_with_vocab_only_texts_are_tokenized_and_generation_is_refused(tiny_variant: Path) -> None:
    with started() as peer:
        peer.send(Load(str(tiny_variant), 256, vocab_only=True))
        answer = peer.receive()
        assert isinstance(answer, Loaded)
        assert (answer.num_ctx, answer.size_vram_bytes) == (256, 0)
        peer.send(Generate(1, "hello"))
        [refused] = peer.answers(1)
        assert isinstance(refused, Failed)
        assert refused.status == 400 and "loaded with vocab_only" in refused.message
        peer.send(Cancel(1))
        peer.send(Tokenize(2, "<|im_start|>the"))
        tokens = peer.receive()
        assert isinstance(tokens, Tokens) and len(tokens.ids) == 2


@pytest.mark.parametrize(
    "load", [{"num_threads": 10_000}, {"num_batch": 10**9}, {"num_batch": -3}, {"num_gpu": 0}, {"num_gpu": 99}]
)
def test_numbers_out_of_range_load_and_serve(tiny_variant: Path, load: dict[str, int]) -> None:
    with started() as peer:
        peer.send(Load(str(tiny_variant), 256, **load))  # type: ignore[arg-type]
        answer = peer.receive()
        assert isinstance(answer, Loaded) and answer.provider == "cpu"
        assert text_of(peer, "hello") != ""


def test_generation_goes_on_over_ten_windows(tiny_variant: Path) -> None:
    with loaded(tiny_variant, num_ctx=32) as (peer, _):
        peer.send(Generate(1, "hello", sampling=VARIED, num_predict=10**6))
        done = peer.answers(1)[-1]
        assert isinstance(done, Done)
        assert (done.reason, done.eval_count) == ("length", 320)


def test_an_answer_held_to_a_schema_is_that_json(smollm2_variant: Path) -> None:
    properties = {"name": {"enum": ["Ada", "Bob"]}}
    schema = {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
    with loaded(smollm2_variant, num_ctx=256) as (peer, _):
        peer.send(Generate(1, "Say a name as JSON: ", grammar=Grammar(json.dumps(schema)), num_predict=40))
        *pieces, done = peer.answers(1)
        assert isinstance(done, Done) and done.reason == "stop"
        text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
        assert json.loads(text)["name"] in ("Ada", "Bob")
