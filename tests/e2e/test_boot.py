"""A daemon with a policy: models come from a neighbour, and are loaded, without anybody asking."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, eventually, free_port, running


@pytest.fixture(scope="module")
def home(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a neighbour that has the model `tiny`."""
    directory = tmp_path_factory.mktemp("neighbour")
    with running(directory) as daemon:
        daemon.create("tiny", tiny_gguf)
    return directory


@pytest.fixture
def neighbour(home: Path) -> Iterator[Daemon]:
    with running(home, HEARTH_SHARE="1") as daemon:
        yield daemon


def policy(directory: Path, *models: str, boot: str = "") -> str:
    """Writes the file; its path."""
    path = directory / "hearth.toml"
    path.write_text(boot + "".join(f"[[models]]\n{text}\n" for text in models))
    return str(path)


def named(port: int, model: str = "tiny") -> str:
    return f'name = "http://127.0.0.1:{port}/library/{model}"'


def loaded(daemon: Daemon) -> list[str]:
    return [model["name"].rpartition("/")[2] for model in daemon.loaded() if model.get("size")]


def test_what_is_not_here_is_pulled_and_loaded_and_stays(neighbour: Daemon, tmp_path: Path) -> None:
    path = policy(tmp_path, named(neighbour.port) + '\nkeep_alive = "-1"\nnum_ctx = 64')
    with running(tmp_path, HEARTH_POLICY=path, HEARTH_KEEP_ALIVE="1s") as device:
        eventually(lambda: device.runner_pids() and loaded(device) == ["tiny:latest"], "tiny is loaded")
        (model,) = device.loaded()
        assert model["context_length"] == 64
        assert model["expires_at"] > "2100"
    neighbour.close()
    with running(tmp_path, HEARTH_POLICY=path) as device:  # no network is needed for what is here
        eventually(lambda: device.runner_pids() and loaded(device) == ["tiny:latest"], "tiny is loaded again")
        assert device.log.count("pulling") == 1


def test_a_registry_may_come_later_and_other_models_do_not_wait_for_it(
    home: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    port = free_port()
    with running(tmp_path) as device:
        device.create("mine", tiny_gguf)
    path = policy(tmp_path, named(port) + "\nload = false", 'name = "mine"\npull = false')
    with running(tmp_path, HEARTH_POLICY=path) as device:
        eventually(lambda: "it is tried again" in device.log, "the first try fails")
        eventually(lambda: "mine:latest" in loaded(device), "the other model is loaded")
        late = Daemon(home, HEARTH_SHARE="1", HEARTH_HOST=f"127.0.0.1:{port}")
        try:
            eventually(lambda: len(device.http.get("/api/tags").json()["models"]) == 2, "it is pulled")
        finally:
            late.close()
        assert device.log.count("it is tried again") == 1


def test_what_cannot_get_better_is_said_once(neighbour: Daemon, tiny_gguf: Path, tmp_path: Path) -> None:
    with running(tmp_path) as device:
        device.create("mine", tiny_gguf)
    path = policy(tmp_path, named(neighbour.port, "none"), 'name = "absent"\npull = false', 'name = "mine"')
    with running(tmp_path, HEARTH_POLICY=path, HEARTH_MEMORY="1k") as device:
        eventually(lambda: device.log.count("given up") == 3, "all are given up")
        assert "library/none:latest, wanted at the start: " in device.log
        assert "absent:latest, wanted at the start: model 'absent:latest' not found; given up" in device.log
        assert "mine:latest, wanted at the start: model requires more system memory" in device.log
        assert device.answers()


def test_a_reload_ends_a_pull_that_goes_on_later(neighbour: Daemon, tmp_path: Path) -> None:
    path = policy(tmp_path, named(neighbour.port))
    settings = {"HEARTH_POLICY": path, "HEARTH_TRANSFER_RATE": "10k", "HEARTH_TRANSFER_STREAMS": "1"}
    with running(tmp_path, **settings) as device:
        eventually(lambda: list((tmp_path / "models/blobs").glob("*partial*")), "some of it is here")
        policy(tmp_path)
        device.send_signal(signal.SIGHUP)
        eventually(lambda: "reload: nothing changed" in device.log, "the new policy is read")
        assert device.answers()
        policy(tmp_path, named(neighbour.port))
        device.send_signal(signal.SIGHUP)
        eventually(lambda: device.log.count("pulling") == 2, "the pull goes on")
        device.send_signal(signal.SIGTERM)
        assert device.wait() == 0
    with running(tmp_path, HEARTH_POLICY=path) as device:
        eventually(lambda: loaded(device) == ["tiny:latest"] and device.runner_pids(), "tiny is loaded")


def test_a_policy_that_makes_no_sense_is_said_and_the_daemon_serves(tmp_path: Path) -> None:
    path = policy(tmp_path, 'nam = "tiny"')
    with running(tmp_path, HEARTH_POLICY=path) as device:
        assert "models row 1: there is no key 'nam'; is name meant?" in device.log
