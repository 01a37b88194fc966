from __future__ import annotations

import subprocess
import sys

import pytest

from hearthd import __version__, cli


@pytest.mark.parametrize("words", [["serve", "--help"], ["start", "-h"], ["help", "serve"]])
def test_help_of_serve_lists_every_setting(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "hearth serve" in text
    assert "HEARTH_MODELS" in text


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    verbs = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert verbs == {
        *["serve", "run", "pull", "push", "list", "ps", "show", "create", "cp", "rm", "stop", "check", "help"],
        *["install-service", "uninstall-service"],
    }


@pytest.mark.parametrize(
    "verb",
    [
        "run",
        "pull",
        "push",
        "list",
        "ls",
        "ps",
        "show",
        "create",
        "cp",
        "rm",
        "stop",
        "check",
        "install-service",
        "uninstall-service",
    ],
)
def test_every_verb_has_a_help_of_its_own(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(["help", verb])
    assert ending.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: hearth {verb} [-h]")


def test_version_is_printed_also_where_no_server_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTH_HOST", "127.0.0.1:1")
    assert cli.main(["--version"]) == 0
    client, server = capsys.readouterr().out.splitlines()
    assert client == f"hearth {__version__}"
    assert server.startswith("no server answers at http://127.0.0.1:1 ")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["frobnicate"], "Error: unknown command 'frobnicate'"),
        (["serve", "--port", "1"], "Error: unknown option '--port'"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert capsys.readouterr().err.startswith(reason)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["pull"], "Error: the following arguments are required: MODEL"),
        (["cp", "one"], "Error: the following arguments are required: DESTINATION"),
        (["ls", "--frobnicate"], "Error: unrecognized arguments: --frobnicate"),
        (["run", "m", "--think=loudly"], "Error: argument --think: invalid choice: 'loudly'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        cli.main(words)
    assert ending.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(reason)
    assert f"usage: hearth {words[0]}" in text


def test_without_a_command_the_usage_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: hearth ")


def test_the_module_is_the_command_serve() -> None:
    done = subprocess.run([sys.executable, "-m", "hearthd", "--help"], capture_output=True, text=True, check=True)
    assert "usage: hearth serve" in done.stdout
