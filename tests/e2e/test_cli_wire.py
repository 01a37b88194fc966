"""`hearth pull` and `hearth push` with a real registry, in plain lines and in bars."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running
from tests.e2e.hearth import COMMAND, environment, hearth, terminal
from tests.registries.docker import DockerRegistry, docker_registry
from tests.registries.models import publish

FILLER = "application/vnd.example.filler"
SLOW_BYTES = 8 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def published(registry: DockerRegistry, tiny_gguf: Path) -> str:
    """The name of a model in the registry."""
    publish(registry, "library/tiny", tiny_gguf)
    return f"http://{registry.host}/library/tiny"


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that pulls 4 MB a second."""
    with running(tmp_path_factory.mktemp("slow"), HEARTH_TRANSFER_RATE="4MB") as daemon:
        yield daemon


@pytest.fixture
def big(registry: DockerRegistry, tiny_gguf: Path) -> str:
    """The name of a model that takes `slow` two seconds."""
    publish(registry, "library/big", tiny_gguf, [(FILLER, os.urandom(SLOW_BYTES))])
    return f"http://{registry.host}/library/big"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def test_a_pull_tells_each_step_in_a_line(daemon: Daemon, home: Path, registry: DockerRegistry, published: str) -> None:
    done = hearth(daemon, home, "pull", published)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "pulling manifest"
    assert lines[-2:] == ["writing manifest", "success"]
    layers = [line for line in lines if re.match(r"pulling [0-9a-f]{12}: \d+% \(.* of .*\)$", line)]
    assert sum(": 100% (" in line for line in layers) == 2  # checkpoint and configuration
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stderr)
    assert registry.host in hearth(daemon, home, "ls").stdout
    assert hearth(daemon, home, "run", published, "hi").returncode == 0
    daemon.delete(f"{registry.host}/library/tiny")


def test_run_pulls_what_is_missing(daemon: Daemon, home: Path, registry: DockerRegistry, published: str) -> None:
    done = hearth(daemon, home, "run", published, "hi")
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == "pulling manifest"
    assert "pulling" not in done.stdout
    daemon.delete(f"{registry.host}/library/tiny")


def test_a_push_tells_each_step_in_a_line(daemon: Daemon, home: Path, registry: DockerRegistry) -> None:
    name = f"{registry.host}/library/pushed"
    assert hearth(daemon, home, "cp", "tiny", name).returncode == 0
    done = hearth(daemon, home, "push", name, "--insecure")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "retrieving manifest"
    assert done.stderr.splitlines()[-2:] == ["pushing manifest", "success"]
    assert registry.manifest("library/pushed", "latest") is not None
    daemon.delete(name)


@pytest.mark.parametrize(("option", "has_source"), [("--with-variants", True), ("--no-source", False)])
def test_a_push_may_carry_what_was_converted(
    option: str, has_source: bool, daemon: Daemon, home: Path, registry: DockerRegistry
) -> None:
    name = f"{registry.host}/library/variant{option}"
    assert hearth(daemon, home, "cp", "tiny", name).returncode == 0
    done = hearth(daemon, home, "push", f"http://{name}", option)
    assert done.returncode == 0, done.stderr
    manifest = registry.manifest(f"library/variant{option}", "latest")
    assert manifest is not None
    assert (b"application/vnd.ollama.image.model" in manifest) == has_source
    assert b"onnx" in manifest
    daemon.delete(name)


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_a_failure_is_told_in_a_sentence(verb: str, daemon: Daemon, home: Path, registry: DockerRegistry) -> None:
    done = hearth(daemon, home, verb, f"http://{registry.host}/library/no-such-model")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_plain_http_is_refused_unless_it_is_asked_for(daemon: Daemon, home: Path, registry: DockerRegistry) -> None:
    done = hearth(daemon, home, "pull", f"{registry.host}/library/tiny")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_bars_show_speed_and_time_left(slow: Daemon, home: Path, registry: DockerRegistry, big: str) -> None:
    with terminal(slow, home, "pull", big, columns=100) as bars:
        bars.expect("pulling manifest")
        bars.expect(" MB/s 00:0")
        assert bars.wait() == 0
    rows = [row for row in bars.seen.split("\n") if row.strip()]
    assert rows[-1].strip() == "success"
    pattern = r"pulling [0-9a-f]{12} ━+ 100% 8\.4/8\.4 MB +[0-9.]+ MB/s +00:00 *$"
    assert any(re.search(pattern, row) for row in rows), rows
    slow.delete(f"{registry.host}/library/big")


def test_a_pull_that_is_stopped_goes_on_with_the_next(
    slow: Daemon, home: Path, registry: DockerRegistry, big: str
) -> None:
    with terminal(slow, home, "pull", big, columns=100) as bars:
        bars.expect(" MB/s 00:0")
        bars.type("\x03")
        bars.expect(f"stopped; 'hearth pull {big}' goes on where this ended")
        assert bars.wait() == 130
        assert "Traceback" not in bars.seen
    again = hearth(slow, home, "pull", big)
    assert again.returncode == 0, again.stderr
    first = next(line for line in again.stderr.splitlines() if "8.4 MB" in line)
    assert not re.search(r": 0% \(0 B", first), first
    slow.delete(f"{registry.host}/library/big")


def test_an_interrupted_pull_says_how_to_go_on_in_plain_lines_too(
    slow: Daemon, home: Path, registry: DockerRegistry, big: str
) -> None:
    with subprocess.Popen(
        [*COMMAND, "pull", big], env=environment(slow.url, home), stderr=subprocess.PIPE, text=True
    ) as pulling:
        assert pulling.stderr is not None
        while "% (" not in (line := pulling.stderr.readline()):
            assert line
        pulling.send_signal(signal.SIGINT)
        rest = pulling.stderr.read()
        assert pulling.wait() == 130
    assert f"stopped; 'hearth pull {big}' goes on where this ended\n" in rest
    assert "Traceback" not in rest
