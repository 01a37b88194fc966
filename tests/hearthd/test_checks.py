from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from hearthd import __version__, checks
from hearthd.finding import Finding
from hearthd.memory import Memory, Pressure, Scope
from hearthd.store import media, names
from hearthd.store.manifest import ImageConfig, Layer, Manifest, encode
from hearthd.store.store import ModelStore, open_store
from tests.e2e.daemon import free_port, running

Report = Callable[..., tuple[int, str]]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Where nothing is wrong."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HEARTH_", "OLLAMA_", "XDG_"))}
    ours = {"HOME": str(tmp_path), "HEARTH_HOST": f"127.0.0.1:{free_port()}", "HEARTH_MODELS": str(tmp_path / "models")}
    return inherited | ours


@pytest.fixture
def report(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Report:
    """Runs the checks with more variables set; exit status and what was printed."""

    def run(verify: bool = False, **variables: str) -> tuple[int, str]:
        status = checks.main(environ | variables, verify=verify)
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the checks that start processes."""
    slow = {"runtime", "converter", "transfers"}
    monkeypatch.setattr(checks, "CHECKS", tuple(row for row in checks.CHECKS if row[0] not in slow))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB where the store is."""
    mount, at = shutil.which("mount"), tmp_path / "models"
    at.mkdir()
    if mount is None or os.geteuid() or subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "none", at]).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.fixture
def read_only_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A store that cannot be written: by its file system for root, who may write everywhere else."""
    if os.geteuid() == 0:
        root: Path = request.getfixturevalue("small_disk")
        open_store(root)
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        yield root
    else:
        store = open_store(tmp_path / "models")
        for path in (store.manifests, store.blobs.root, store.root):
            path.chmod(0o500)
        yield store.root
        store.root.chmod(0o700)


def lines(text: str, check: str) -> list[str]:
    """Verdict and text of each line of the check."""
    found = [line.split(maxsplit=2) for line in text.splitlines()]
    return [f"{words[0]} {words[2]}" for words in found if len(words) == 3 and words[1] == check]


def add_model(store: ModelStore, name: str, content: bytes) -> str:
    """A model of one layer; the layer's digest."""
    config = encode(ImageConfig(model_format="gguf"))
    layer = Layer(media.MODEL, store.blobs.put(content), len(content))
    manifest = Manifest(config=Layer(media.CONFIG, store.blobs.put(config), len(config)), layers=(layer,))
    store.write_manifest(names.parse(name), encode(manifest))
    return layer.digest


def tree(directory: Path) -> dict[str, tuple[int, float]]:
    """All that is below the directory."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime) for path in directory.rglob("*")}


def test_a_healthy_device_passes_and_libraries_are_named(report: Report) -> None:
    status, text = report()
    assert status == 0
    assert "onnxruntime" in lines(text, "runtime")[0]
    assert "CPUExecutionProvider" in lines(text, "runtime")[0]
    assert "hearth_export" in lines(text, "converter")[0]
    assert "aiohttp" in lines(text, "transfers")[0]
    assert text.splitlines()[-1].startswith("0 failures")


def test_every_check_has_a_line(report: Report) -> None:
    _, text = report()
    assert all(lines(text, name) for name, _ in checks.CHECKS)


def test_a_broken_library_fails_with_its_reason(report: Report, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libfoo.so.1: cannot open shared object file')")
    status, text = report(PYTHONPATH=str(tmp_path))
    assert status == 1
    (line,) = lines(text, "runtime")
    assert line.startswith("FAIL onnxruntime, numpy, tokenizers: ImportError: libfoo.so.1: cannot open")


def test_a_library_that_hangs_is_given_up(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(checks, "LIBRARY_TIMEOUT_S", 1.0)
    monkeypatch.setattr(checks, "CHECKS", tuple(row for row in checks.CHECKS if row[0] == "runtime"))
    status, text = report(PYTHONPATH=str(tmp_path))
    assert status == 1
    assert "no end within 1 s" in text


@pytest.mark.usefixtures("without_libraries")
class TestWithoutLibraries:
    def test_settings_are_shown_with_what_set_them(self, report: Report) -> None:
        _, text = report(OLLAMA_KEEP_ALIVE="90", HEARTH_MAX_QUEUE="7")
        rows = [line.split() for line in text.partition("\n\n")[0].splitlines()]
        assert ["HEARTH_KEEP_ALIVE", "1m30s", "OLLAMA_KEEP_ALIVE"] in rows
        assert ["HEARTH_MAX_QUEUE", "7", "HEARTH_MAX_QUEUE"] in rows
        assert ["HEARTH_LOAD_TIMEOUT", "5m", "default"] in rows

    def test_a_value_that_cannot_be_read_fails(self, report: Report) -> None:
        status, text = report(HEARTH_KEEP_ALIVE="soon")
        assert status == 1
        assert lines(text, "settings")[0].startswith("FAIL HEARTH_KEEP_ALIVE='soon' cannot be used")

    def test_a_variable_without_effect_is_a_warning(self, report: Report) -> None:
        status, text = report(OLLAMA_FLASH_ATTENTION="1")
        assert status == 0
        assert "OLLAMA_FLASH_ATTENTION" in lines(text, "settings")[0]

    def test_nothing_is_changed(self, report: Report, tmp_path: Path) -> None:
        add_model(open_store(tmp_path / "models"), "tiny", b"content")
        before = tree(tmp_path)
        report(verify=True)
        assert tree(tmp_path) == before

    def test_no_store_is_made(self, report: Report, tmp_path: Path) -> None:
        status, text = report()
        assert status == 0
        assert f"ok {tmp_path}/models is made when it is needed" in lines(text, "store")
        assert list(tmp_path.iterdir()) == []

    def test_a_store_that_cannot_be_made_fails(self, report: Report, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        status, text = report(HEARTH_MODELS=str(tmp_path / "file/models"))
        assert status == 1
        assert "cannot be made" in lines(text, "store")[0]

    def test_a_read_only_store_is_a_warning_and_the_cache_counts(self, report: Report, read_only_store: Path) -> None:
        cache = read_only_store.with_name("cache")
        cache.write_text("in the way")
        status, text = report(HEARTH_CACHE=str(cache / "variants"))
        assert status == 1
        assert lines(text, "store")[0] == f"warning {read_only_store} is read-only"
        assert lines(text, "cache")[0].startswith(f"FAIL {cache}/variants cannot be made")
        cache.unlink()
        cache.mkdir()
        assert lines(report(HEARTH_CACHE=str(cache))[1], "cache")[0].endswith("free")

    def test_little_room_is_a_warning(self, report: Report, small_disk: Path) -> None:
        open_store(small_disk)
        _, text = report()
        assert lines(text, "store")[1].startswith("warning only 8.")

    def test_sound_models_are_counted(self, report: Report, tmp_path: Path) -> None:
        store = open_store(tmp_path / "models")
        add_model(store, "tiny", b"content")
        add_model(store, "other/tiny:x", b"more")
        status, text = report()
        assert status == 0
        assert lines(text, "models") == ["ok 2 models with all blobs in their right size"]

    def test_a_damaged_manifest_fails_by_name(self, report: Report, tmp_path: Path) -> None:
        store = open_store(tmp_path / "models")
        add_model(store, "tiny", b"content")
        (store.manifests / "registry.ollama.ai/library/tiny/latest").write_text("{")
        status, text = report()
        assert status == 1
        assert lines(text, "models")[0].startswith("FAIL tiny:latest: ")
        assert "manifest is damaged" in lines(text, "models")[0]

    def test_a_file_that_can_be_no_manifest_fails_by_path(self, report: Report, tmp_path: Path) -> None:
        store = open_store(tmp_path / "models")
        add_model(store, "tiny", b"content")
        (store.manifests / "registry.ollama.ai/library/tiny/-odd").write_text("{}")
        assert "/-odd: is not where a manifest can be" in report()[1]

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [(Path.unlink, "is missing"), (lambda path: os.truncate(path, 3), "has 3 bytes instead of 7")],
    )
    def test_a_spoilt_blob_fails_with_its_model(
        self, report: Report, tmp_path: Path, spoil: Callable[[Path], None], reason: str
    ) -> None:
        store = open_store(tmp_path / "models")
        digest = add_model(store, "tiny", b"content")
        spoil(store.blobs.path(digest))
        status, text = report()
        assert status == 1
        assert f"tiny:latest: blob {digest}" in lines(text, "models")[0]
        assert reason in lines(text, "models")[0]
        assert "pull or create tiny:latest again" in text

    def test_changed_content_is_found_when_blobs_are_verified(self, report: Report, tmp_path: Path) -> None:
        store = open_store(tmp_path / "models")
        path = store.blobs.path(add_model(store, "tiny", b"content"))
        assert report()[0] == 0
        assert report(verify=True)[0] == 0
        path.write_bytes(b"CONTENT")
        assert report()[0] == 0
        status, text = report(verify=True)
        assert status == 1
        assert f"FAIL {path} is damaged" in lines(text, "blobs")
        assert "ok 1 blob with the right content" in lines(text, "blobs")

    def test_unfinished_downloads_are_counted(self, report: Report, tmp_path: Path) -> None:
        blobs = open_store(tmp_path / "models").blobs.root
        for name in ("a", "b"):
            stem = f"sha256-{hashlib.sha256(name.encode()).hexdigest()}-partial"
            (blobs / stem).write_bytes(bytes(8192))
            (blobs / f"{stem}.journal").write_text("0 8192\n")
        status, text = report()
        assert status == 0
        (line,) = lines(text, "unfinished")
        assert line.startswith("warning 2 blobs pulled or pushed in part, 24.6 kB")

    def test_a_key_is_made_later_where_there_is_none(self, report: Report, tmp_path: Path) -> None:
        assert lines(report()[1], "key") == [f"ok {tmp_path}/.local/share/hearth/id_ed25519 is made when it is needed"]

    @pytest.mark.parametrize(
        ("text", "mode", "verdict", "reason"),
        [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret", 0o600, "ok", ""),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nsecret", 0o640, "warning", "can be read by others"),
            ("secret", 0o600, "FAIL", "is no OpenSSH private key"),
            (None, 0, "FAIL", "not a file"),
        ],
    )
    def test_the_key_is_looked_at_and_never_shown(
        self, report: Report, tmp_path: Path, text: str | None, mode: int, verdict: str, reason: str
    ) -> None:
        key = tmp_path / "key"
        if text is None:
            key.mkdir()
        else:
            key.write_text(text)
            key.chmod(mode)
        status, output = report(HEARTH_KEY=str(key))
        (line,) = lines(output, "key")
        assert line.startswith(verdict)
        assert reason in line
        assert status == (verdict == "FAIL")
        assert "secret" not in output

    @pytest.mark.parametrize(
        ("text", "mode", "verdict", "reason"),
        [
            ('{"auths": {"r.example": {"auth": "c2VjcmV0"}}}', 0o600, "ok", "has 1 registry"),
            ('{"auths": {"r.example": {"auth": "c2VjcmV0"}}}', 0o604, "warning", "can be read by everybody"),
            ('{"auths": "c2VjcmV0"}', 0o600, "FAIL", "is not JSON with an object"),
            ("c2VjcmV0", 0o600, "FAIL", "is not JSON with an object"),
            ("[" * 100_000, 0o600, "FAIL", "is not JSON with an object"),
            (None, 0, "FAIL", "no such file"),
        ],
    )
    def test_credentials_are_looked_at_and_never_shown(
        self, report: Report, tmp_path: Path, text: str | None, mode: int, verdict: str, reason: str
    ) -> None:
        path = tmp_path / "config.json"
        if text is not None:
            path.write_text(text)
            path.chmod(mode)
        status, output = report(HEARTH_CREDENTIALS=str(path))
        (line,) = lines(output, "credentials")
        assert line.startswith(verdict)
        assert reason in line
        assert status == (verdict == "FAIL")
        assert "c2VjcmV0" not in output

    def test_a_running_daemon_is_named_with_its_version(self, report: Report, tmp_path: Path) -> None:
        with running(tmp_path) as daemon:
            status, text = report(HEARTH_HOST=f":{daemon.port}")
        assert status == 0
        assert f"a server answers, version {__version__}" in lines(text, "address")[0]

    def test_a_running_daemon_of_another_version_is_a_warning(self, report: Report) -> None:
        with foreign_server({"version": "0.0.1"}) as port:
            _, text = report(HEARTH_HOST=f"127.0.0.1:{port}")
        assert lines(text, "address")[0].startswith("warning http://127.0.0.1:")

    def test_another_program_on_the_port_fails(self, report: Report) -> None:
        with foreign_server() as port:
            status, text = report(HEARTH_HOST=f"127.0.0.1:{port}")
        assert status == 1
        assert "what answers is no server of this API" in lines(text, "address")[0]

    def test_a_silent_program_on_the_port_fails(self, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "ANSWER_TIMEOUT_S", 0.2)
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            status, text = report(HEARTH_HOST=f"127.0.0.1:{silent.getsockname()[1]}")
        assert status == 1
        assert "no answer within 0.2 s" in lines(text, "address")[0]

    @pytest.mark.parametrize("name", ["192.0.2.1", "no-such-host.invalid"])
    def test_an_address_that_is_not_ours_fails(
        self, report: Report, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "ANSWER_TIMEOUT_S", 0.2)
        status, text = report(HEARTH_HOST=name)
        assert status == 1
        assert lines(text, "address")[0].startswith("FAIL")

    def test_sharing_on_loopback_is_a_warning(self, report: Report) -> None:
        assert lines(report(HEARTH_SHARE="1")[1], "sharing")[0].startswith("warning on, but only this machine")
        port = free_port()
        assert lines(report(HEARTH_SHARE="1", HEARTH_HOST=f":{port}")[1], "sharing")[0].startswith("ok on")

    def test_a_check_that_breaks_does_not_hide_the_others(
        self, report: Report, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(device: object) -> Iterator[Finding]:
            raise ZeroDivisionError("oh")
            yield

        monkeypatch.setattr(checks, "CHECKS", (("odd", broken), *checks.CHECKS))
        status, text = report()
        assert status == 1
        assert lines(text, "odd") == ["FAIL could not be checked: ZeroDivisionError: oh"]
        assert lines(text, "sharing")


class foreign_server:
    """A web server that is none of ours."""

    def __init__(self, answer: object = ("hello",)) -> None:
        self.answer = json.dumps(answer).encode()

    def __enter__(self) -> int:
        answer = self.answer

        class Hello(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Hello)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_port

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def findings(memory: Memory, memory_bytes: int = 0) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.text) for finding in checks.budget_findings(memory, memory_bytes)]


def test_each_bound_on_memory_is_told_and_what_models_may_take_of_it() -> None:
    memory = Memory((Scope("the machine", 8 << 30, 4 << 30), Scope("cgroup /box", 2 << 30, 1 << 30)))
    assert findings(memory) == [
        ("ok", "4.3 GB of 8.6 GB available to the machine"),
        ("ok", "1.1 GB of 2.1 GB available to cgroup /box"),
        ("ok", "models may take 966.4 MB by what is available, less a reserve for the system"),
    ]


def test_a_setting_that_bounds_memory_more_than_the_system_is_named() -> None:
    memory = Memory((Scope("the machine", 8 << 30, 4 << 30),))
    assert findings(memory, 2 << 30)[-1] == ("ok", "models may take 2.1 GB by HEARTH_MEMORY")
    assert "by what is available" in findings(memory, 5 << 30)[-1][1]


def test_little_memory_and_none_that_can_be_read_are_warnings() -> None:
    low = Memory((Scope("the machine", 1 << 30, 200 << 20),))
    assert findings(low)[-1] == (
        "warning",
        "models may take 142.6 MB by what is available, less a reserve for the system",
    )
    assert findings(Memory((Scope("the machine", 0, 0),)))[-1] == ("warning", "/proc/meminfo cannot be read")


def test_signs_of_shortage_that_the_machine_does_not_give_are_named() -> None:
    assert checks.pressure_finding(Pressure(0.0, 0, None)).text == (
        "shortage is seen by available memory, stalls, kills; not told: hits of the limit"
    )
    assert checks.pressure_finding(Pressure(None, None, None)).text == (
        "shortage is seen by available memory; not told: stalls, kills, hits of the limit "
        "(psi=1 in the kernel's command line may switch stalls on)"
    )
