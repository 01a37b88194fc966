"""A load that is told what will be asked, with a real session and real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.engine.batch import Batch
from hearthd.engine.frames import Done, Frame, Generate, Load, Piece, SamplingParams
from hearthd.engine.loading import Opened, loaded, open_model

DRAWN = SamplingParams(top_k=1)
SYSTEM = "You are a helpful assistant. " * 12
FIRST, NEXT = SYSTEM + "Hello!", SYSTEM + "Hello! And then?"


class Life:
    """One runner's life, from its load to its leave."""

    def __init__(self, variant: Path, prefix_dir: Path, prompt: str, *, num_slots: int = 1) -> None:
        self.load = Load(
            str(variant),
            1024,
            num_threads=1,
            num_slots=num_slots,
            prefix_dir=str(prefix_dir),
            prefix_bytes=1 << 30,
            prompt=prompt,
        )
        self.opened: Opened = open_model(self.load)
        assert self.opened.session is not None
        self.sent: list[Frame] = []
        opened = self.opened
        self.batch = Batch(
            self.opened.session, opened.tokenizer, opened.info, self._took, opened.prompts, opened.resumed
        )

    def _took(self, *frames: Frame) -> None:
        self.sent.extend(frames)

    def ask(self, prompt: str, sampling: SamplingParams = DRAWN) -> str:
        self.sent.clear()
        self.batch.add(Generate(1, prompt, sampling=sampling, num_predict=12))
        while not self.batch.idle:
            self.batch.step()
        assert isinstance(self.sent[-1], Done)
        return "".join(frame.text for frame in self.sent if isinstance(frame, Piece))

    @property
    def num_resumed(self) -> int:
        return len(self.opened.resumed.tokens) if self.opened.resumed is not None else 0


def saved(variant: Path, prefix_dir: Path) -> str:
    """The answer of a life that has ended."""
    life = Life(variant, prefix_dir, "")
    text = life.ask(FIRST)
    life.batch.save()
    return text


@pytest.mark.parametrize("num_slots", [1, 3])
def test_what_is_saved_of_the_prompt_is_there_when_the_model_is(
    tiny_variant: Path, tmp_path: Path, num_slots: int
) -> None:
    saved(tiny_variant, tmp_path)
    fresh, resumed = Life(tiny_variant, tmp_path / "empty", ""), Life(tiny_variant, tmp_path, NEXT, num_slots=num_slots)
    assert resumed.num_resumed >= len(fresh.opened.tokenizer.encode(FIRST)) - 1
    (file,) = tmp_path.rglob("*.kv")
    file.unlink()  # so the answer cannot come from there
    assert resumed.ask(NEXT) == fresh.ask(NEXT)


def test_an_exact_request_goes_on_from_the_exact_part(tiny_variant: Path, tmp_path: Path) -> None:
    greedy = SamplingParams(temperature=0.0)
    saved(tiny_variant, tmp_path)
    fresh, resumed = Life(tiny_variant, tmp_path / "empty", ""), Life(tiny_variant, tmp_path, NEXT)
    assert resumed.num_resumed
    assert resumed.ask(NEXT, greedy) == fresh.ask(NEXT, greedy)


def test_a_request_that_was_not_expected_is_answered_as_ever(tiny_variant: Path, tmp_path: Path) -> None:
    saved(tiny_variant, tmp_path)
    fresh, resumed = Life(tiny_variant, tmp_path / "empty", ""), Life(tiny_variant, tmp_path, NEXT)
    assert resumed.num_resumed
    other = "Tell me of the sea. " * 20
    assert resumed.ask(other) == fresh.ask(other)


@pytest.mark.parametrize("prompt", ["", "short", "nothing like it " * 20, SYSTEM * 50])
def test_what_is_not_saved_or_does_not_fit_is_not_resumed(tiny_variant: Path, tmp_path: Path, prompt: str) -> None:
    saved(tiny_variant, tmp_path)
    assert Life(tiny_variant, tmp_path, prompt).num_resumed == 0


def test_a_damaged_file_costs_nothing_but_itself(tiny_variant: Path, tmp_path: Path) -> None:
    saved(tiny_variant, tmp_path)
    (file,) = tmp_path.rglob("*.kv")
    file.write_bytes(file.read_bytes()[:-100])
    life = Life(tiny_variant, tmp_path, NEXT)
    assert life.num_resumed == 0
    assert life.ask(NEXT) == Life(tiny_variant, tmp_path / "empty", "").ask(NEXT)


def test_what_was_read_does_not_count_as_what_the_load_took(tiny_variant: Path, tmp_path: Path) -> None:
    saved(tiny_variant, tmp_path)
    life = Life(tiny_variant, tmp_path, NEXT)
    assert life.opened.resumed is not None
    assert life.opened.session is not None
    slot = life.opened.session.slot(0)
    num_bytes = life.opened.resumed.num_bytes(slot)
    assert num_bytes == slot[..., : life.num_resumed, :].nbytes
    without = Opened(life.opened.info, life.opened.tokenizer, life.opened.session)
    counted = loaded(life.load, without, 0).resident_bytes - loaded(life.load, life.opened, 0).resident_bytes
    assert counted == pytest.approx(num_bytes, abs=1 << 20)
