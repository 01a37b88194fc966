"""`hearth check` beside a service: what it judges, by a root of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hearthd import checks

SLOW = {"runtime", "converter", "transfers"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the service is installed and systemd does not run."""
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/hearth").mkdir()
    (tmp_path / "etc/systemd/system/hearth.service").touch()
    return tmp_path


@pytest.fixture(autouse=True)
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the checks that start processes."""
    monkeypatch.setattr(checks, "CHECKS", tuple(row for row in checks.CHECKS if row[0] not in SLOW))


def report(capsys: pytest.CaptureFixture[str], root: Path, **variables: str) -> tuple[int, str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HEARTH_", "OLLAMA_", "XDG_"))}
    status = checks.main(environ | variables, root=root)
    return status, capsys.readouterr().out


def test_the_settings_of_the_service_are_judged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/hearth/hearth.env").write_text("HEARTH_MAX_QUEUE=soon\n")
    status, text = report(capsys, root)
    assert status == 1
    assert "the settings of the service" in text
    assert "HEARTH_MAX_QUEUE='soon' cannot be used" in text
    assert "/var/lib/hearth/models" in text
    assert "installed, but this system is not run by systemd" in text


def test_settings_of_ones_own_count_where_there_are_some(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/hearth/hearth.env").write_text("HEARTH_MAX_QUEUE=soon\n")
    _, text = report(capsys, root, HEARTH_MODELS=str(root / "models"))
    assert "the settings of the service" not in text
    assert "soon" not in text


def test_a_file_that_cannot_be_read_is_a_failure_with_advice(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "etc/hearth/hearth.env").mkdir()
    status, text = report(capsys, root)
    assert status == 1
    assert "hearth.env cannot be read" in text
    assert "sudo" in text


def test_the_policy_is_judged_and_models_that_are_not_here_are_named(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = root / "etc/hearth/hearth.toml"
    variables = {"HEARTH_POLICY": "/etc/hearth/hearth.toml", "HEARTH_MODELS": str(root / "models")}
    policy.write_text('[[models]]\nname = "absent"\npull = false\n')
    _, text = report(capsys, root, **variables)
    assert "absent:latest is not here" in text
    assert "-> hearth pull absent:latest" in text
    policy.write_text("[bot]\n")
    status, text = report(capsys, root, **variables)
    assert status == 1
    assert "there is no table 'bot'; is boot meant?" in text


def test_no_service_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = report(capsys, tmp_path, HEARTH_MODELS=str(tmp_path / "models"))
    assert "not installed; `hearth install-service` makes one of systemd" in text
