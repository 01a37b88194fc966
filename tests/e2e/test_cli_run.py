"""`hearth run` with a prompt, piped or not."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, eventually
from tests.e2e.hearth import COMMAND, environment, hearth

SHORT = {"num_predict": 8, "temperature": 0}
ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def models(daemon: Daemon) -> Iterator[None]:
    """A model with short answers that are always the same, and one that talks on."""
    for name, parameters in (("short", SHORT), ("long", ENDLESS)):
        answer = daemon.post("/api/create", model=name, parameters=parameters, stream=False, **{"from": "tiny"})
        assert answer.json() == {"status": "success"}
    yield
    daemon.delete("short")
    daemon.delete("long")


def expected(daemon: Daemon, prompt: str) -> str:
    return str(daemon.post("/api/generate", model="short", prompt=prompt, stream=False).json()["response"]) + "\n"


def test_a_prompt_is_answered_on_standard_output(daemon: Daemon, home: Path) -> None:
    done = hearth(daemon, home, "run", "short", "Why", "not?")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected(daemon, "Why not?")


def test_what_is_piped_in_stands_before_the_prompt(daemon: Daemon, home: Path) -> None:
    assert hearth(daemon, home, "run", "short", stdin="a\nb\n").stdout == expected(daemon, "a\nb\n")
    assert hearth(daemon, home, "run", "short", "Sum up", stdin="a\nb\n").stdout == expected(daemon, "a\nb\n Sum up")


def test_options_may_stand_before_and_behind(daemon: Daemon, home: Path) -> None:
    done = hearth(daemon, home, "run", "--nowordwrap", "short", "--verbose", "Why?")
    assert done.stdout == expected(daemon, "Why?")
    names = [line.split(":")[0] for line in done.stderr.splitlines() if line]
    assert names == [
        "total duration", "load duration", "prompt eval count", "prompt eval duration", "prompt eval rate",
        "eval count", "eval duration", "eval rate",
    ]  # fmt: skip
    assert re.search(r"^eval count: +8 token\(s\)$", done.stderr, re.MULTILINE)


def test_without_prompt_and_terminal_the_model_is_loaded(daemon: Daemon, home: Path) -> None:
    assert hearth(daemon, home, "stop", "short").returncode == 0
    eventually(lambda: not daemon.loaded(), "the model is unloaded")
    done = hearth(daemon, home, "run", "short", "--keepalive", "7m")
    assert (done.returncode, done.stdout) == (0, "")
    assert [model["name"] for model in daemon.loaded()] == ["short:latest"]


def test_a_schema_is_read_from_its_file(daemon: Daemon, home: Path) -> None:
    (home / "schema.json").write_text(json.dumps({"type": "object"}))
    from_file = hearth(daemon, home, "run", "short", "--format", "schema.json", "x")
    asked = daemon.post("/api/generate", model="short", prompt="x", format={"type": "object"}, stream=False)
    if asked.status_code == 200:
        assert from_file.stdout == asked.json()["response"] + "\n"
    else:
        assert from_file.stderr == f"Error: {asked.json()['error']}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--format", "nope.json"], "nope.json: No such file or directory"),
        (["--format", "{"], "the format is no JSON schema"),
        (["--keepalive", "soon"], "--keepalive: time: invalid duration"),
    ],
)
def test_an_option_that_cannot_be_is_refused(words: list[str], reason: str, daemon: Daemon, home: Path) -> None:
    done = hearth(daemon, home, "run", "short", *words, "x")
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr


def test_what_the_server_cannot_do_is_told_in_its_words(daemon: Daemon, home: Path) -> None:
    done = hearth(daemon, home, "run", "short", "--think", "x")
    assert done.returncode == 1
    assert done.stderr == 'Error: "short" does not support thinking\n'


def test_a_model_that_is_missing_is_pulled_first(daemon: Daemon, home: Path) -> None:
    done = hearth(daemon, home, "run", "http://127.0.0.1:1/library/nope", "x")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "pulling manifest"
    assert done.stderr.splitlines()[-1].startswith("Error: pull model manifest: ")


def test_an_interrupt_ends_the_answer_with_130(daemon: Daemon, home: Path) -> None:
    command = [*COMMAND, "run", "long", "x"]
    with subprocess.Popen(
        command, env=environment(daemon.url, home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(1)
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        assert b"Traceback" not in running.stderr.read()
        assert running.wait() == 130
