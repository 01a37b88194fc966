"""The files of the systemd service."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hearthd import config, envfile, service
from hearthd.service import (
    ANNOUNCEMENT,
    ENV_FILE,
    ENVIRONMENT,
    LISTEN,
    POLICY_FILE,
    STARTER,
    UNIT,
    UNITS,
    BadAddress,
    Wishes,
)

NEW = Wishes(systemd=257)
EVERYTHING = Wishes(
    systemd=252, listen=("0.0.0.0:80",), announce=True, starter=True, devices=("cuda", "npu"), program="/usr/bin/hearth"
)


def apply(plan: service.Plan, root: Path) -> None:
    for name, text in (plan.write | plan.keep).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in plan.remove:
        (root / name).unlink(missing_ok=True)


def installed(wishes: Wishes, root: Path) -> set[str]:
    """The files after an installation."""
    apply(service.installation(wishes, root).changes(root), root)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_file_of_settings_is_made_from_the_settings() -> None:
    text = (service.source() / "hearth.env").read_text()
    assert text == service.manual(), "write service.manual() to systemd/hearth.env"


def test_the_file_of_settings_names_each_setting_with_its_default() -> None:
    lines = [line.removeprefix("#") for line in service.manual().splitlines() if line.startswith("#HEARTH_")]
    given = {name: value for name, value in envfile.parse("\n".join(lines)).items() if value}
    assert len(lines) == len(config.SETTINGS)
    found, default = config.load(ENVIRONMENT | given), config.load(ENVIRONMENT)
    assert found.faults == ()
    for row in config.SETTINGS:
        assert getattr(found, row.name) == getattr(default, row.name), row.name


def test_the_settings_that_nothing_sets_give_no_faults_and_no_line_is_in_force() -> None:
    assert envfile.parse(service.manual()) == {}


def test_the_unit_gives_the_environment_that_the_code_knows() -> None:
    lines = (service.source() / UNIT).read_text().splitlines()
    given = dict(line.split("=", 2)[1:] for line in lines if line.startswith("Environment="))
    assert given == ENVIRONMENT
    assert f"EnvironmentFile=-/{ENV_FILE}" in lines
    assert f"ExecStart={service.PROGRAM} serve" in lines


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("0.0.0.0", ["0.0.0.0:11434"]),
        ("192.168.1.5:8080", ["192.168.1.5:8080"]),
        (":8080", ["8080"]),
        ("[::1]:1", ["[::1]:1"]),
        ("::", ["[::]:11434"]),
        ("localhost", ["127.0.0.1:11434", "[::1]:11434"]),
        ("http://10.0.0.1", ["10.0.0.1:80"]),
    ],
)
def test_an_address_becomes_what_a_socket_unit_takes(text: str, lines: list[str]) -> None:
    assert list(service.listen_streams(text)) == lines


@pytest.mark.parametrize(
    "text",
    [
        "https://0.0.0.0",
        "example.org",
        "0.0.0.0/path",
        "0.0.0.0:99999",
        "0.0.0.0:0",
        "x\n[Service]",
        "[fe80::1%eth0]:80",
    ],
)
def test_what_is_no_address_of_this_device_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(BadAddress, match="cannot listen at") as caught:
        service.listen_streams(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("version", "needed"), [(252, {253, 257}), (255, {257}), (257, set())])
def test_an_older_systemd_gets_drop_ins(version: int, needed: set[int], tmp_path: Path) -> None:
    found = installed(replace(NEW, systemd=version), tmp_path)
    assert {number for number in service.OLDER if f"{UNITS}/{UNIT}.d/before-{number}.conf" in found} == needed


def test_the_drop_ins_go_when_systemd_is_upgraded(tmp_path: Path) -> None:
    installed(replace(NEW, systemd=252), tmp_path)
    assert not [name for name in installed(NEW, tmp_path) if "before-" in name]


def test_what_was_asked_for_stays_where_it_is_not_asked_for_again(tmp_path: Path) -> None:
    before = installed(EVERYTHING, tmp_path)
    again = Wishes(systemd=252, program=EVERYTHING.program)
    assert installed(again, tmp_path) == before
    changes = service.installation(again, tmp_path).changes(tmp_path)
    assert (changes.write, changes.keep, changes.remove) == ({}, {}, [])


def test_what_is_asked_away_goes(tmp_path: Path) -> None:
    installed(EVERYTHING, tmp_path)
    found = installed(replace(NEW, announce=False, starter=False, devices=()), tmp_path)
    assert {ANNOUNCEMENT, STARTER}.isdisjoint(found)
    assert not [name for name in found if "cuda" in name or "npu" in name]
    assert LISTEN in found


def test_the_announced_port_is_the_one_that_is_listened_on(tmp_path: Path) -> None:
    installed(EVERYTHING, tmp_path)
    assert "<port>80</port>" in (tmp_path / ANNOUNCEMENT).read_text()
    installed(replace(NEW, listen=("[::]:8080",)), tmp_path)
    assert "<port>8080</port>" in (tmp_path / ANNOUNCEMENT).read_text()


def test_the_service_runs_the_program_that_is_asked_for(tmp_path: Path) -> None:
    installed(EVERYTHING, tmp_path)
    assert "\nExecStart=/usr/bin/hearth serve\n" in (tmp_path / UNITS / UNIT).read_text()
    assert "\nExecStart=/usr/bin/hearth serve --starter\n" in (tmp_path / STARTER).read_text()


def test_files_of_the_user_are_never_written_over(tmp_path: Path) -> None:
    installed(NEW, tmp_path)
    for name in (ENV_FILE, POLICY_FILE):
        (tmp_path / name).write_text("mine")
    installed(EVERYTHING, tmp_path)
    assert [(tmp_path / name).read_text() for name in (ENV_FILE, POLICY_FILE)] == ["mine", "mine"]


def test_a_removal_leaves_the_files_of_the_user_only(tmp_path: Path) -> None:
    installed(EVERYTHING, tmp_path)
    apply(service.removal(), tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        ENV_FILE,
        POLICY_FILE,
    }


def test_the_file_of_settings_names_every_variable() -> None:
    words = set(re.findall(r"\w+", service.manual()))
    assert {name for row in config.SETTINGS for name in row.variables} <= words


def test_the_file_of_settings_marks_what_needs_a_start() -> None:
    _, *entries = service.manual().rstrip("\n").split("\n\n")
    for row, entry in zip(config.SETTINGS, entries, strict=True):
        assert ("[restart]" in entry) == (not row.live), row.name


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("::1", ["[::1]:11434"]),
        ("192.168.1.5", ["192.168.1.5:11434"]),
        ("*:8080", ["8080"]),
        ("localhost:80", ["127.0.0.1:80", "[::1]:80"]),
        ("2001:DB8::0001", ["[2001:db8::1]:11434"]),
    ],
)
def test_more_spellings_of_an_address(text: str, lines: list[str]) -> None:
    assert list(service.listen_streams(text)) == lines


@pytest.mark.parametrize(
    "text",
    [
        "https://x",
        "unix:///run/hearth",
        "neighbour",
        "host/path",
        "127.0.0.1:-1",
        ":0",
        "256.0.0.1",
        "a b\n[Service]",
        "127.0.0.1\nListenStream=1",
        "127.0.0.1:1\nListenStream=1",
    ],
)
def test_a_refused_address_is_shown_in_one_line(text: str) -> None:
    with pytest.raises(BadAddress) as caught:
        service.listen_streams(text)
    assert str(caught.value).startswith(f"cannot listen at {text!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "port", "url", "is_local"),
    [
        ("127.0.0.1:1", 1, "http://127.0.0.1:1", True),
        ("[::1]:2", 2, "http://[::1]:2", True),
        ("0.0.0.0:3", 3, "http://127.0.0.1:3", False),
        ("[::]:4", 4, "http://[::1]:4", False),
        ("5", 5, "http://127.0.0.1:5", False),
        ("192.168.1.5:6", 6, "http://192.168.1.5:6", False),
    ],
)
def test_a_client_finds_what_listens(address: str, port: int, url: str, is_local: bool) -> None:
    assert (service.port(address), service.url(address), service.is_local(address)) == (port, url, is_local)


def test_the_addresses_in_force_are_those_that_were_asked_for_last(tmp_path: Path) -> None:
    assert service.addresses(NEW, tmp_path) == ("127.0.0.1:11434",)
    installed(replace(NEW, listen=("0.0.0.0:80", "[::1]:80")), tmp_path)
    assert service.addresses(NEW, tmp_path) == ("0.0.0.0:80", "[::1]:80")
    assert service.addresses(replace(NEW, listen=("1",)), tmp_path) == ("1",)


def test_what_nobody_asked_for_is_not_written(tmp_path: Path) -> None:
    found = installed(NEW, tmp_path)
    assert {LISTEN, STARTER, ANNOUNCEMENT}.isdisjoint(found)
    assert not [name for name in found if name.startswith("etc/systemd/")]


def test_a_file_that_was_changed_is_written_anew(tmp_path: Path) -> None:
    installed(NEW, tmp_path)
    (tmp_path / UNITS / UNIT).write_text("[Service]\n")
    changes = service.installation(NEW, tmp_path).changes(tmp_path)
    assert (list(changes.write), changes.keep, changes.remove) == ([f"{UNITS}/{UNIT}"], {}, [])


def test_devices_are_those_of_the_last_installation_that_named_some(tmp_path: Path) -> None:
    installed(replace(NEW, devices=("cuda",)), tmp_path)
    assert [name for name in installed(NEW, tmp_path) if "cuda" in name]
    found = installed(replace(NEW, devices=("npu",)), tmp_path)
    assert [Path(name).stem for name in found if name.startswith("etc/systemd/")] == ["npu"]
