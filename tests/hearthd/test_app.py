from __future__ import annotations

import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from hearthd.memory import rss_bytes, tree_rss_bytes
from tests.e2e.daemon import PATIENCE_S, Daemon, eventually, running


def refused(directory: Path, **settings: str) -> str:
    """What a daemon that does not start says last."""
    daemon = Daemon(directory, **settings)
    try:
        assert daemon.wait() == 1
    finally:
        daemon.close()
    assert "Traceback" not in daemon.log
    return daemon.log.splitlines()[-1]


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        line = refused(tmp_path, HEARTH_HOST=f"127.0.0.1:{daemon.port}")
    assert line == (
        f"hearth: cannot listen on 127.0.0.1:{daemon.port}: Address already in use; set HEARTH_HOST to another address"
    )


def test_an_address_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    assert "cannot listen on 192.0.2.1:1" in refused(tmp_path, HEARTH_HOST="192.0.2.1:11434")


def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(tmp_path, HEARTH_MODELS=str(tmp_path / "file/models"))
    assert line.startswith(f"hearth: the store {tmp_path}/file/models cannot be made")


def test_it_says_where_it_listens_and_which_settings_have_no_effect(tmp_path: Path) -> None:
    with running(tmp_path, OLLAMA_FLASH_ATTENTION="1") as daemon:
        eventually(lambda: f"listens on {daemon.url}" in daemon.log, "the address")
        assert "without effect here: OLLAMA_FLASH_ATTENTION" in daemon.log


def test_a_value_that_cannot_be_read_stops_the_start_before_anything_is_made(tmp_path: Path) -> None:
    line = refused(tmp_path, HEARTH_KEEP_ALIVE="soon")
    assert line == (
        "hearth: HEARTH_KEEP_ALIVE='soon' cannot be used: neither a duration nor a number of seconds; "
        "it takes a duration such as 90s, 5m or 1h30m, or a number of seconds"
    )
    assert not (tmp_path / "models").exists()


def test_a_setting_without_effect_in_this_version_is_warned_of(tmp_path: Path) -> None:
    with running(tmp_path, OLLAMA_FLASH_ATTENTION="1") as daemon:
        assert "set, but without effect here: OLLAMA_FLASH_ATTENTION" in daemon.log


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["", "[::1]", "localhost"])
def test_other_ways_to_write_the_address_work(tmp_path: Path, host: str) -> None:
    if host == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    daemon = Daemon(tmp_path)
    daemon.close()
    with_host = Daemon(tmp_path, HEARTH_HOST=f"{host}:{daemon.port}")
    with_host.http.base_url = f"http://{host if host == '[::1]' else '127.0.0.1'}:{daemon.port}"
    try:
        with_host.wait_until_ready()
    finally:
        with_host.close()


def test_a_model_without_a_variant_is_converted_when_it_is_asked(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        variants = tmp_path / "models/variants"
        subprocess.run(["rm", "-r", str(variants)], check=True)
        answer = daemon.post("/api/generate", model="tiny", prompt="x", stream=False, options={"num_predict": 2})
        assert answer.json()["eval_count"] == 2
        assert "tiny:latest: converting to ONNX" in daemon.log


def test_models_survive_a_restart(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        before = daemon.http.get("/api/tags").json()
    with running(tmp_path) as daemon:
        assert daemon.http.get("/api/tags").json() == before


def test_prompts_and_answers_stay_out_of_the_log(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path, HEARTH_DEBUG="1") as daemon:
        daemon.create("tiny", tiny_gguf)
        asked = {"model": "tiny", "options": {"num_predict": 2, "mirrorstat": 1}}
        daemon.post("/api/generate", prompt="my secret", stream=False, **asked)
        assert "load tiny:latest" in daemon.log
        assert "option 'mirrorstat' is unknown and ignored" in daemon.log
        assert "secret" not in daemon.log


def test_the_daemon_holds_no_heavy_library(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        daemon.post("/api/generate", model="tiny", prompt="x", stream=False, options={"num_predict": 2})
        maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    for library in ("numpy", "onnxruntime", "tokenizers", "onnx_cpp"):
        assert library not in maps


def test_memory_is_back_after_unload(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        pid = daemon.process.pid
        idle_bytes = rss_bytes(pid)
        for _ in range(20):
            daemon.post("/api/chat", model="tiny", messages=[{"role": "user", "content": "x"}])
        assert tree_rss_bytes(pid) > idle_bytes + (8 << 20)
        daemon.post("/api/generate", model="tiny", keep_alive=0)
        eventually(lambda: not daemon.runner_pids(), "the runner is gone")
        eventually(lambda: tree_rss_bytes(pid) <= idle_bytes + (2 << 20), "the memory is back")


def test_importing_the_daemon_brings_no_command_line_library() -> None:
    code = (
        "import sys, hearthd.app; print(*{'click', 'multiprocessing', 'argparse', 'numpy', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == ""


def test_requests_are_logged_by_method_path_status_and_time_where_asked(tmp_path: Path) -> None:
    with running(tmp_path, OLLAMA_DEBUG_LOG_REQUESTS="1") as daemon:
        daemon.http.get("/api/nothing%0Ahere?secret=1", headers={"x-secret": "2"})
        daemon.post("/api/show", model="my-secret")
        for request in (r"GET '/api/nothing\\nhere'", "POST '/api/show'"):
            wanted = re.compile(f"INFO +{request} 404 [0-9.]+ ms\n")
            eventually(partial(lambda wanted: wanted.search(daemon.log), wanted), "the request is in the log")
        assert "secret" not in daemon.log
    (tmp_path / "quiet").mkdir()
    with running(tmp_path / "quiet") as daemon:
        daemon.http.get("/api/nothing")
        assert "nothing" not in daemon.log
