from __future__ import annotations

import subprocess
import sys

import pytest

from hearthd import __version__, cli


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["serve", "--help"], ["help"]])
def test_help_lists_every_setting(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "hearth serve" in text
    assert "HEARTH_MODELS OLLAMA_MODELS" in text


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hearth {__version__}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["list"], "comes with a later version"),
        (["frobnicate"], "unknown command 'frobnicate'"),
        (["serve", "--port", "1"], "unknown option '--port'"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert reason in capsys.readouterr().err


def test_without_a_command_the_usage_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "usage:" in capsys.readouterr().out


def test_the_module_is_the_command_serve() -> None:
    done = subprocess.run([sys.executable, "-m", "hearthd", "--help"], capture_output=True, text=True, check=True)
    assert "usage: hearth serve" in done.stdout
