from __future__ import annotations

from pathlib import Path

from tests.e2e.daemon import Daemon, running

GREEDY = {"temperature": 0, "num_predict": 8}


def answer(daemon: Daemon) -> str:
    response = daemon.post("/api/generate", model="tiny", prompt="hello world", raw=True, stream=False, options=GREEDY)
    text: str = response.json()["response"]
    return text


def packed(models: Path) -> list[Path]:
    return list(models.glob("variants/*/*/packed/*/packed.json"))


def test_packed_weights_are_made_once_and_give_the_same_answer(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path) as daemon:
        daemon.create("tiny", tiny_gguf)
        plain = answer(daemon)
        assert packed(tmp_path / "models") == []
    with running(tmp_path, HEARTH_PACKED_WEIGHTS="1") as daemon:
        assert answer(daemon) == plain
        (made,) = packed(tmp_path / "models")
        written_ns = made.stat().st_mtime_ns
        assert daemon.post("/api/generate", model="tiny", keep_alive=0).status_code == 200
        assert answer(daemon) == plain
        assert made.stat().st_mtime_ns == written_ns
        daemon.delete("tiny")
        assert packed(tmp_path / "models") == []


def test_a_model_whose_weights_cannot_be_packed_answers_all_the_same(tmp_path: Path, tiny_gguf: Path) -> None:
    with running(tmp_path, HEARTH_PACKED_WEIGHTS="1") as daemon:
        daemon.create("tiny", tiny_gguf)
        (variant,) = (path.parent for path in (tmp_path / "models").glob("variants/*/*/variant.json"))
        (variant / "packed").write_text("in the way")
        assert answer(daemon)
        assert daemon.post("/api/generate", model="tiny", keep_alive=0).status_code == 200
        assert answer(daemon)
        assert daemon.log.count("the weights are not packed") == 1
