"""`hearth install-service` and `uninstall-service` where they are called again, or cannot do what is asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hearthd import cli, service
from hearthd.service import ENV_FILE, LISTEN, STARTER, UNIT, UNITS

PROGRAMS = ("systemctl", "systemd-sysusers", "systemd-tmpfiles")
missing = [name for name in PROGRAMS if shutil.which(name) is None]
needs_systemd = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of root are made")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with systemd 252 and Hearth in /opt, and nobody's service."""
    for name in ("usr/lib/systemd/libsystemd-shared-252.so", "opt/hearth/current/bin/hearth"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    return tmp_path


def install(root: Path, *words: str) -> int:
    return cli.main(["install-service", "--root", str(root), *words])


def uninstall(root: Path, *words: str) -> int:
    return cli.main(["uninstall-service", "--root", str(root), *words])


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


@needs_systemd
def test_a_dry_run_names_each_file_and_each_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(root)
    words = ["--listen", ":80", "--announce", "--starter", "--device", "cuda", "--device", "npu"]
    assert install(root, *words, "--dry-run") == 0
    said = capsys.readouterr().out
    made = [*service.removal().remove, ENV_FILE, service.POLICY_FILE]
    assert {line for line in said.splitlines() if line.startswith("would write ")} == {
        f"would write {root}/{name}" for name in made
    }
    for program in PROGRAMS:
        assert f"would run {program} --root={root} " in said
    assert contents(root) == before


@needs_root
@needs_systemd
def test_a_service_that_is_installed_again_keeps_what_was_asked_for_and_the_settings(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(root, "--listen", "0.0.0.0:8080", "--starter") == 0
    (root / ENV_FILE).write_text("HEARTH_SHARE=1\n")
    before = contents(root)
    capsys.readouterr()
    assert install(root) == 0
    assert contents(root) == before
    assert "It listens at http://127.0.0.1:8080." in capsys.readouterr().out
    assert install(root, "--no-starter") == 0
    assert before.keys() - contents(root).keys() == {STARTER}


@needs_root
@needs_systemd
def test_a_dry_run_of_a_removal_names_what_would_go_and_removes_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(root, "--listen", ":80") == 0
    before = contents(root)
    capsys.readouterr()
    assert uninstall(root, "--purge", "--dry-run") == 0
    said = capsys.readouterr().out
    for name in (f"{UNITS}/{UNIT}", LISTEN, *service.STATE):
        assert f"would remove {root}/{name}\n" in said
    assert f"would run systemctl --root={root} --quiet disable hearth.service hearth.socket\n" in said
    assert "Nothing was done." in said
    assert contents(root) == before


@needs_root
@needs_systemd
def test_where_no_service_is_a_removal_changes_nothing(root: Path) -> None:
    before = contents(root)
    assert uninstall(root) == 0
    assert contents(root) == before


@needs_root
@needs_systemd
def test_a_file_that_cannot_be_written_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "usr/local").symlink_to("nowhere")
    assert install(root) == 1
    said = capsys.readouterr().err
    assert said == f"Error: cannot write {root}/{UNITS}/{UNIT}: File exists\n"


@needs_systemd
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--listen", "https://x"], "cannot listen at 'https://x'"),
        (["--listen", ":1", "--listen", ":0"], "cannot listen at ':0'"),
        (["--listen", "a b\n[Service]"], "cannot listen at 'a b"),
        (["--program", "/opt/a b"], "an absolute path without blanks"),
        (["--program", "/opt/100%"], "an absolute path without blanks"),
        (["--program", "/opt/$HOME"], "an absolute path without blanks"),
    ],
)
def test_what_cannot_be_installed_is_refused_in_one_line_also_in_a_dry_run(
    words: list[str], reason: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(root, *words, "--dry-run") == 1
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith("Error: ")
    assert reason in said
    assert said.count("\n") == 1


def test_where_systemd_does_not_run_the_system_that_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(root / "empty"))
    assert install(root, "--dry-run") == 1
    assert "there is no systemctl here" in capsys.readouterr().err


@needs_systemd
def test_who_is_not_root_may_ask_what_would_be_done(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert install(root, "--dry-run") == 0
    assert "Nothing was done." in capsys.readouterr().out
