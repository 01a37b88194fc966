"""Registries that send odd manifests, requests with odd names: refused in a sentence, and nothing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hearthd.store import media
from tests.e2e.daemon import Daemon, running
from tests.registries.misbehaving import MANIFEST_TYPE, MisbehavingRegistry, digest_of, misbehaving

CONFIG = b'{"model_format":"gguf"}'
WORDS = b"Be brief."


@pytest.fixture(scope="module")
def registry() -> Iterator[MisbehavingRegistry]:
    with misbehaving() as registry:
        registry.add(CONFIG)
        registry.add(WORDS)
        yield registry


@pytest.fixture(scope="module")
def daemon(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.create("Older", tiny_gguf)
        yield daemon
        names = [model["name"] for model in daemon.http.get("/api/tags").json()["models"]]
        assert "Older:latest" in names
        assert "Traceback" not in daemon.log


def part(data: bytes, media_type: str = media.SYSTEM, **changes: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)} | changes


def manifest(*layers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fields = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": part(CONFIG, media.CONFIG)}
    return fields | {"layers": list(layers)} | changes


def pulled(daemon: Daemon, registry: MisbehavingRegistry, body: bytes | dict[str, Any]) -> dict[str, Any]:
    """The last line of a pull of a model with this manifest."""
    registry.manifests["library/odd:latest"] = body if isinstance(body, bytes) else json.dumps(body).encode()
    return daemon.lines("/api/pull", model=f"{registry.host}/library/odd", insecure=True)[-1]


def state(daemon: Daemon) -> tuple[list[str], list[str]]:
    """Models and blobs."""
    models = [model["name"] for model in daemon.http.get("/api/tags").json()["models"]]
    return models, sorted(path.name for path in (daemon.log_path.parent / "models" / "blobs").iterdir())


ABSENT = "f" * 64
ODD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "no JSON": (b"<html>404</html>", "manifest is damaged"),
    "a list": (b"[]", "manifest is damaged"),
    "nothing": (b"", "manifest is damaged"),
    "deeply nested": (b'{"config":' + b"[" * 100_000, "manifest is damaged"),
    "too large": (b" " * (5 << 20), "more than"),
    "no config": ({"schemaVersion": 2, "layers": []}, "config"),
    "layers that are none": (manifest(layers={"a": 1}), "manifest is damaged"),
    "an index of manifests": ({"schemaVersion": 2, "manifests": [part(b"x")]}, "config"),
    "a negative size": (manifest(part(WORDS, size=-1)), "negative"),
    "a size that is no number": (manifest(part(WORDS, size="9")), "manifest is damaged"),
    "a size beyond any disk": (manifest(part(WORDS, digest=f"sha256:{ABSENT}", size=1 << 60)), "refused"),
    "a size beyond this disk": (manifest(part(WORDS, digest=f"sha256:{ABSENT}", size=1 << 43)), "does not fit"),
    "a number beyond 64 bits": (manifest(part(WORDS, size=1 << 80)), "refused"),
    "two sizes for one blob": (manifest(part(WORDS), part(WORDS, size=8)), "two sizes"),
    "a digest that leads elsewhere": (manifest(part(WORDS, digest="sha256:../../../etc/passwd")), "is not sha256"),
    "a digest of another kind": (manifest(part(WORDS, digest="sha512:" + ABSENT * 2)), "is not sha256"),
    "too many layers": (manifest(*[part(b"%d" % i) for i in range(5000)]), "5001 layers"),
    "a config beyond reason": (manifest(config=part(CONFIG, media.CONFIG, size=1 << 30)), "config has"),
    "a blob that is not there": (manifest(part(WORDS, digest=f"sha256:{ABSENT}")), "not in the registry"),
    "a blob of another size": (manifest(part(b"other words", digest=digest_of(WORDS))), "bytes"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_manifest_is_refused_and_changes_nothing(
    daemon: Daemon, registry: MisbehavingRegistry, case: str
) -> None:
    body, reason = ODD[case]
    before = state(daemon)
    last = pulled(daemon, registry, body)
    assert reason in last["error"], last
    assert state(daemon) == before


def test_a_config_that_is_no_json_is_refused(daemon: Daemon, registry: MisbehavingRegistry) -> None:
    odd = b"\x00\x01 no json"
    registry.add(odd)
    last = pulled(daemon, registry, manifest(config=part(odd, media.CONFIG)))
    assert "config is damaged" in last["error"], last
    assert len(state(daemon)[0]) == 1


def test_repeated_and_unknown_layers_are_kept_as_they_are(daemon: Daemon, registry: MisbehavingRegistry) -> None:
    odd = manifest(part(WORDS), part(WORDS), part(WORDS, "application/vnd.example.unheard-of"), extra={"a": [None]})
    last = pulled(daemon, registry, odd)
    assert last == {"status": "success"}
    name = f"{registry.host}/library/odd:latest"
    listed = {model["name"]: model for model in daemon.http.get("/api/tags").json()["models"]}
    assert listed[name]["digest"] == digest_of(json.dumps(odd).encode()).removeprefix("sha256:")
    answer = daemon.post("/api/generate", model=name, prompt="x")
    assert answer.status_code == 500
    assert "no checkpoint" in answer.json()["error"]
    assert daemon.http.request("DELETE", "/api/delete", json={"model": name}).status_code == 200


NAMES = ["../../etc/passwd", "a/../b", "library/..", "x:", ":x", "x@sha256:" + ABSENT, "a b", "a\\b", "ä", "x" * 81,
         "\0", "ftp://host/library/x", "a/b/c/d/e f", "-x", ".hidden", "x:../../y", "https://", "%2e%2e/x"]  # fmt: skip


@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_out_of_bounds_is_refused(daemon: Daemon, path: str, name: str) -> None:
    before = state(daemon)
    answer = daemon.post(path, model=name, stream=False)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]
    assert state(daemon) == before


def test_a_model_pulled_in_another_case_is_the_same_model(daemon: Daemon, registry: MisbehavingRegistry) -> None:
    registry.manifests["library/Cased:latest"] = json.dumps(manifest(part(WORDS))).encode()
    registry.manifests["library/cased:latest"] = json.dumps(manifest(part(WORDS))).encode()
    for model in ("Cased", "cased"):
        lines = daemon.lines("/api/pull", model=f"{registry.host}/library/{model}", insecure=True)
        assert lines[-1] == {"status": "success"}
    found = [name for name in state(daemon)[0] if "cased" in name.lower()]
    assert found == [f"{registry.host}/library/Cased:latest"]
    assert daemon.http.request("DELETE", "/api/delete", json={"model": found[0].lower()}).status_code == 200
