"""Hugging Face's hub as a registry: names on hf.co, with the hub itself on loopback."""

from __future__ import annotations

import json
from pathlib import Path

from hearthd.store import media
from tests.e2e.daemon import running
from tests.registries.misbehaving import MANIFEST_TYPE, digest_of, misbehaving, truncated

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
