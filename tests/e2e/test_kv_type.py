"""A daemon that is told to hold keys and values as int8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hearthd.store.variant import EXPORTER, VARIANT_FILE, read_variant
from tests.e2e.daemon import Daemon, running

VARIED = {"temperature": 50.0, "top_k": 20, "top_p": 1.0, "seed": 4}  # of random weights, and yet no loop
SCALES = "variants/*/*/kv-q8_0.scales"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8")


@pytest.fixture(scope="module")
def int8_daemon(root: Path, tiny_gguf: Path) -> Iterator[Daemon]:
    with running(root, HEARTH_KV_CACHE_TYPE="q8_0", HEARTH_NUM_PARALLEL="2") as daemon:
        daemon.create("tiny", tiny_gguf)
        yield daemon


def answer(daemon: Daemon, prompt: str, **options: Any) -> dict[str, Any]:
    fields = {"model": "tiny", "stream": False, "raw": True, "prompt": prompt, "options": VARIED | options}
    response = daemon.post("/api/generate", **fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_answers_repeat_and_go_on_beyond_the_window(int8_daemon: Daemon, root: Path) -> None:
    first, again = (answer(int8_daemon, "Once", num_ctx=64, num_predict=200) for _ in range(2))
    assert (first["eval_count"], first["done_reason"]) == (200, "length")
    assert first["response"] == again["response"]
    assert len(list((root / "models").glob(SCALES))) == 1


def test_scales_outlive_the_model(int8_daemon: Daemon, root: Path) -> None:
    before = answer(int8_daemon, "Twice", num_predict=20)
    (kept,) = (root / "models").glob(SCALES)
    written_ns = kept.stat().st_mtime_ns
    assert int8_daemon.post("/api/generate", model="tiny", keep_alive=0).status_code == 200
    assert answer(int8_daemon, "Twice", num_predict=20)["response"] == before["response"]
    assert kept.stat().st_mtime_ns == written_ns


def test_a_model_of_an_earlier_converter_is_converted_again(int8_daemon: Daemon, root: Path) -> None:
    assert int8_daemon.post("/api/generate", model="tiny", keep_alive=0).status_code == 200
    (path,) = (root / "models").glob(f"variants/*/*/{VARIANT_FILE}")
    old = msgspec.json.decode(path.read_bytes()) | {"exporter": "0.1.0"}
    del old["kv_graphs"]
    path.write_bytes(msgspec.json.encode(old))
    assert answer(int8_daemon, "Thrice", num_predict=5)["eval_count"] == 5
    info = read_variant(path.parent)
    assert info is not None
    assert (info.exporter, {*info.kv_graphs}) == (EXPORTER, {"q8_0"})
