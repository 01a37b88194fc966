"""`hearth install-service` and `uninstall-service`, in root directories other than this machine's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hearthd import cli, service

PROGRAMS = ("systemctl", "systemd-sysusers", "systemd-tmpfiles")
missing = [name for name in PROGRAMS if shutil.which(name) is None]
needs_systemd = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files of root are made")
INSTALLER = service.source() / "install.sh"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What a Debian 12 with Hearth in /opt looks like."""
    for name in ("usr/lib/systemd/libsystemd-shared-252.so", "opt/hearth/current/bin/hearth", "home/me/bin/hearth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "etc").mkdir()
    return tmp_path


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() or path.is_symlink()}


@needs_systemd
def test_a_dry_run_names_files_and_commands_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    assert cli.main(["install-service", "--dry-run", "--root", str(root), "--listen", "0.0.0.0"]) == 0
    said = capsys.readouterr().out
    assert files(root) == before
    assert f"would write {root}/usr/local/lib/systemd/system/hearth.service\n" in said
    assert f"would write {root}/etc/systemd/system/hearth.socket.d/listen.conf\n" in said
    assert f"would run systemctl --root={root} --quiet enable hearth.service hearth.socket\n" in said
    assert "Other devices reach it" in said
    assert "Nothing was done" in said


@needs_root
@needs_systemd
def test_a_service_is_made_in_an_image_and_taken_away_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(root)
    assert cli.main(["install-service", "--root", str(root)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "starts at the next boot" in said
    assert "127.0.0.1:11434" in said
    made = files(root)
    assert "usr/local/lib/systemd/system/hearth.service.d/before-253.conf" in made
    assert "etc/systemd/system/multi-user.target.wants/hearth.service" in made
    assert "etc/systemd/system/sockets.target.wants/hearth.socket" in made
    assert "hearth:x:" in (root / "etc/passwd").read_text()
    assert (root / "etc/hearth/hearth.env").stat().st_mode & 0o777 == 0o640
    assert cli.main(["uninstall-service", "--root", str(root)]) == 0
    assert "Models and settings stay" in capsys.readouterr().out
    left = {name for name in files(root) - before if name.startswith(("usr/", "etc/systemd", "etc/hearth"))}
    assert left == {"etc/hearth/hearth.env", "etc/hearth/hearth.toml"}


@needs_root
@needs_systemd
def test_a_purge_leaves_neither_models_nor_settings(root: Path) -> None:
    assert cli.main(["install-service", "--root", str(root)]) == 0
    (root / "var/lib/hearth/models").mkdir(parents=True)
    assert cli.main(["uninstall-service", "--purge", "--root", str(root)]) == 0
    assert not (root / "var/lib/hearth").exists()
    assert not (root / "etc/hearth").exists()


@needs_systemd
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--listen", "example.org"], "cannot listen at 'example.org'"),
        (["--program", "/usr/bin/nothing"], "there is no program /usr/bin/nothing"),
        (["--program", "/home/me/bin/hearth"], "the service does not see /home/me/bin/hearth"),
        (["--program", "//home/me/bin/hearth"], "the service does not see //home/me/bin/hearth"),
        (["--program", "/opt/../home/me/bin/hearth"], "the service does not see /opt/../home/me/bin/hearth"),
        (["--program", "hearth"], "an absolute path"),
    ],
)
def test_what_cannot_be_installed_is_refused_with_a_reason(
    words: list[str], reason: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(root)
    assert cli.main(["install-service", "--dry-run", "--root", str(root), *words]) == 1
    assert reason in capsys.readouterr().err
    assert files(root) == before


@needs_systemd
@pytest.mark.parametrize(
    ("library", "reason"), [("libsystemd-shared-245.so", "systemd 245 is too old"), ("none", "no systemd")]
)
def test_a_system_with_an_old_systemd_or_none_is_refused(
    library: str, reason: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = root / "usr/lib/systemd"
    (directory / "libsystemd-shared-252.so").rename(directory / library)
    assert cli.main(["install-service", "--dry-run", "--root", str(root)]) == 1
    assert reason in capsys.readouterr().err


@needs_systemd
@pytest.mark.parametrize("verb", ["install-service", "uninstall-service"])
def test_only_root_may_install(
    verb: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main([verb, "--root", str(root)]) == 1
    assert "only root may do that: sudo " in capsys.readouterr().err


def test_a_root_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["install-service", "--root", str(tmp_path / "nowhere")]) == 1
    assert f"there is no directory {tmp_path}/nowhere" in capsys.readouterr().err


def test_the_installer_is_sound_and_says_how_it_is_used() -> None:
    assert subprocess.run(["sh", "-n", INSTALLER], check=False).returncode == 0
    done = subprocess.run(["sh", INSTALLER, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "sudo sh install.sh" in done.stdout
