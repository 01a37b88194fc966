"""The installed service under systemd: from power-on to an answer, and what it cannot do."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from tests.appliance.conftest import Installed
from tests.appliance.machine import PORT, SERVICE, Container
from tests.e2e.daemon import eventually

pytestmark = pytest.mark.systemd

QUESTION = [{"role": "user", "content": "Name the capital of France."}]


def test_after_power_on_the_socket_listens_and_the_service_is_ready(machine: Container) -> None:
    assert machine.show("ActiveState", "hearth.socket") == "active"
    assert machine.is_active()
    assert machine.show("Type") == "notify-reload"
    assert machine.show("User") == "hearth"
    assert machine.get("/api/tags")["models"] != []


def test_systemctl_status_says_what_is_loaded_and_where_it_listens(service: Container) -> None:
    assert "no model loaded" in service.show("StatusText")
    assert f"127.0.0.1:{PORT}" in service.show("StatusText")
    service.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 1})
    eventually(lambda: "tiny" in service.show("StatusText"), "the status names the model")
    assert service.show("StatusText") in service.run("systemctl", "status", "--no-pager", SERVICE)


def test_systemd_finds_no_fault_in_the_units(machine: Container) -> None:
    assert machine.complaints() == []


def test_the_service_is_exposed_less_than_15_of_100(machine: Container) -> None:
    machine.assert_hardly_exposed()


def test_a_request_starts_the_service_that_is_stopped(service: Container) -> None:
    service.run("systemctl", "stop", SERVICE)
    assert not service.is_active()
    assert service.get("/api/version")["version"]
    assert service.is_active()


def test_a_chat_streams_from_the_starter_model(service: Container) -> None:
    lines = list(service.lines("/api/chat", model="smollm2", messages=QUESTION, options={"temperature": 0}))
    assert len(lines) > 2
    assert lines[-1]["done"]
    assert "Paris" in "".join(line["message"]["content"] for line in lines)


def test_an_answer_in_json_is_json(service: Container) -> None:
    options = {"temperature": 0, "num_predict": 200}
    message = {"role": "user", "content": "Describe France as JSON with the keys name and capital."}
    answer = service.post("/api/chat", model="smollm2", messages=[message], format="json", options=options)
    assert isinstance(json.loads(answer["message"]["content"]), dict)


def test_a_model_is_made_and_removed(service: Container, tiny_gguf: Path) -> None:
    service.create("another", tiny_gguf)
    answer = service.post("/api/generate", model="another", prompt="x", options={"num_predict": 2})
    assert answer["eval_count"] == 2
    with service.asked("DELETE", "/api/delete", model="another") as deleted:
        assert deleted.status == 200


def test_the_service_has_no_privileges(service: Container) -> None:
    service.post("/api/generate", model="tiny")
    for pid in (service.host_pid(), *service.runners()):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["CapEff"] == status["CapBnd"] == status["CapAmb"] == "0" * 16
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"


def test_the_service_cannot_write_the_system(service: Container) -> None:
    seen = Path(f"/proc/{service.host_pid()}/root")
    for place in ("etc", "usr", "boot", "opt/hearth"):
        with pytest.raises(OSError) as caught:
            (seen / place / "x").write_text("x")  # by root, through the service's mounts
        assert caught.value.errno == errno.EROFS, place


def test_the_service_sees_nobodys_home(service: Container) -> None:
    service.write("/home/somebody/secret", "x")
    service.write("/root/secret", "x")
    seen = Path(f"/proc/{service.host_pid()}/root")
    assert list((seen / "home").iterdir()) == list((seen / "root").iterdir()) == []


def test_no_memory_is_writable_and_executable(service: Container) -> None:
    service.post("/api/generate", model="smollm2", prompt="x", options={"num_predict": 1})
    assert service.show("MemoryDenyWriteExecute") == "yes"
    (runner,) = service.runners()
    for pid in (service.host_pid(), runner):
        permissions = [line.split()[1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        assert len(permissions) > 10
        assert [found for found in permissions if "w" in found and "x" in found] == []


def test_the_journal_has_fields_beside_the_text(service: Container) -> None:
    service.write("/etc/hearth/hearth.env", "HEARTH_LOG_REQUESTS=1\n")
    service.run("systemctl", "reload", SERVICE)
    service.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 1})
    loaded = service.journal("HEARTH_MODEL=tiny:latest")[-1]
    assert loaded["PRIORITY"] == "6"
    assert loaded["SYSLOG_IDENTIFIER"] == "hearth"
    ready = next(entry for entry in reversed(service.journal()) if entry["MESSAGE"].startswith("ready tiny"))
    assert int(ready["HEARTH_DURATION_USEC"]) > 0
    assert int(ready["HEARTH_BYTES"]) > 0
    asked = next(entry for entry in reversed(service.journal()) if "/api/generate" in entry["MESSAGE"])
    assert asked["HEARTH_STATUS"] == "200"
    assert asked["HEARTH_REQUEST_ID"]


def test_an_error_has_the_priority_of_errors_in_the_journal(service: Container) -> None:
    service.write("/etc/hearth/hearth.env", "HEARTH_NUM_PARALLEL=many\n")
    service.try_run("systemctl", "reload", SERVICE)
    assert any("HEARTH_NUM_PARALLEL" in entry["MESSAGE"] for entry in service.journal("PRIORITY=3"))


def test_a_warning_of_a_runner_has_the_priority_of_warnings_in_the_journal(service: Container) -> None:
    service.drop_in("lock", "[Service]\nLimitMEMLOCK=64K\n")
    service.run("systemctl", "restart", SERVICE)
    service.post("/api/generate", model="smollm2", prompt="x", options={"num_predict": 1, "use_mlock": True})
    (warning,) = (entry for entry in service.journal("PRIORITY=4") if "use_mlock" in entry["MESSAGE"])
    assert warning["MESSAGE"].startswith("use_mlock: the weights are not locked into memory")


def test_the_check_finds_a_healthy_service_and_says_what_is_missing(service: Container) -> None:
    done = service.try_run("hearth", "check")
    assert done.returncode == 0, done.stdout
    assert "ok       service      active" in done.stdout
    assert f"ok       socket       127.0.0.1:{PORT}" in done.stdout
    assert "is started again after 30s" in done.stdout


def test_the_check_of_a_service_that_cannot_start_says_why(service: Container) -> None:
    service.write("/etc/hearth/hearth.env", "HEARTH_NUM_PARALLEL=many\n")
    service.try_run("systemctl", "restart", SERVICE)
    done = service.try_run("hearth", "check")
    assert done.returncode == 1
    assert "HEARTH_NUM_PARALLEL='many' cannot be used" in done.stdout
    assert "warning  service" in done.stdout


def test_an_announced_service_is_seen_by_others_on_the_network(service: Container) -> None:
    service.run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
    try:
        for name in ("lan0", "lan1"):
            service.run("ip", "link", "set", name, "up", "multicast", "on")
        service.run("ip", "address", "add", "192.0.2.1/24", "dev", "lan0")
        assert browse(service) == ""
        service.run("hearth", "install-service", "--announce")
        found = eventually(lambda: browse(service), "the service is announced")
        assert f";{PORT};" in found
    finally:
        service.run("ip", "link", "delete", "lan0")


def browse(machine: Container) -> str:
    """The services of Hearth's kind on the network, a line for each: avahi-browse(1)."""
    found = machine.run("avahi-browse", "--terminate", "--resolve", "--parsable", "_ollama._tcp")
    return "\n".join(line for line in found.splitlines() if line.startswith("="))


def test_devices_are_let_in_where_they_are_asked_for(service: Container) -> None:
    service.run("hearth", "install-service", "--device", "cuda", "--device", "npu")
    assert service.is_active()
    assert service.show("PrivateDevices") == "no"
    assert "char-nvidia" in service.show("DeviceAllow")
    service.post("/api/generate", model="tiny", prompt="x", options={"num_predict": 1})
    service.run("hearth", "install-service", "--device", "none")
    assert service.is_active()
    assert service.show("PrivateDevices") == "yes"


def test_an_address_for_the_network_is_listened_on_at_once(service: Container) -> None:
    said = service.run("hearth", "install-service", "--listen", "0.0.0.0")
    assert "Other devices reach it" in said
    assert "0.0.0.0:11434" in service.show("Listen", "hearth.socket")
    assert service.version()
    service.run("hearth", "install-service", "--listen", "127.0.0.1")
    assert "0.0.0.0" not in service.show("Listen", "hearth.socket")


def test_the_installation_tells_where_it_listens(installed: Installed) -> None:
    assert f"127.0.0.1:{PORT}" in installed.said
