"""A batch whose prompts outlive it, with a real session and real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.engine.batch import Batch
from hearthd.engine.frames import Done, Frame, Generate, Load, Piece, SamplingParams
from hearthd.engine.kvform import float_form
from hearthd.engine.providers.provider import load_provider
from hearthd.engine.resuming import saved_prompts
from hearthd.engine.session import open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import read_variant

GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(top_k=1)
SYSTEM = "You are a helpful assistant. " * 12
LIMIT = 1 << 30


class Life:
    """One runner's life, from its load to its leave."""

    def __init__(self, variant: Path, prefix_dir: Path, *, num_slots: int = 1, prefix_bytes: int = LIMIT) -> None:
        info = read_variant(variant)
        assert info is not None
        session = open_session(variant, info, num_ctx=1024, num_threads=1, num_slots=num_slots)
        load = Load(str(variant), 1024, prefix_dir=str(prefix_dir), prefix_bytes=prefix_bytes)
        tokenizer = Tokenizer(variant / info.tokenizer, info)
        self.sent: list[Frame] = []
        prompts = saved_prompts(load, info, session.form, load_provider("cpu", 1))
        self.batch = Batch(session, tokenizer, info, self._took, prompts)

    def _took(self, *frames: Frame) -> None:
        self.sent.extend(frames)

    def ask(self, prompt: str, sampling: SamplingParams = DRAWN) -> tuple[str, Done]:
        self.sent.clear()
        self.batch.add(Generate(1, prompt, sampling=sampling, num_predict=12))
        while not self.batch.idle:
            self.batch.step()
        [done] = [frame for frame in self.sent if isinstance(frame, Done)]
        return "".join(frame.text for frame in self.sent if isinstance(frame, Piece)), done


def files(prefix_dir: Path) -> list[Path]:
    return list(prefix_dir.rglob("*.kv"))


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_a_prompt_saved_at_the_end_of_a_life_is_read_in_the_next(
    tiny_variant: Path, tmp_path: Path, sampling: SamplingParams
) -> None:
    before = Life(tiny_variant, tmp_path)
    text, done = before.ask(SYSTEM + "Hello!", sampling)
    before.batch.save()
    after = Life(tiny_variant, tmp_path)
    again, read = after.ask(SYSTEM + "Hello!", sampling)
    assert read.prompt_count == done.prompt_count
    num_exact = (done.prompt_count - 2) // 32 * 32
    assert read.cached_count == (num_exact if sampling is GREEDY else done.prompt_count - 1)
    assert (done.cached_count, again) == (0, text)


def test_a_saved_prompt_of_another_question_gives_its_system_prompt(tiny_variant: Path, tmp_path: Path) -> None:
    before = Life(tiny_variant, tmp_path)
    before.ask(SYSTEM + "First question?")
    before.batch.save()
    fresh_text, fresh = Life(tiny_variant, tmp_path / "none").ask(SYSTEM + "And now for another one.", GREEDY)
    text, done = Life(tiny_variant, tmp_path).ask(SYSTEM + "And now for another one.", GREEDY)
    assert (text, fresh.cached_count) == (fresh_text, 0)
    assert done.cached_count >= 64


def test_what_is_in_memory_is_not_read_from_disk(tiny_variant: Path, tmp_path: Path) -> None:
    life = Life(tiny_variant, tmp_path)
    life.ask(SYSTEM)
    life.batch.save()
    (path,) = files(tmp_path)
    path.write_bytes(b"damaged")
    _, done = life.ask(SYSTEM)
    assert done.cached_count == done.prompt_count - 1
    assert path.read_bytes() == b"damaged"


def test_a_file_that_turns_out_damaged_costs_only_the_evaluation(tiny_variant: Path, tmp_path: Path) -> None:
    life = Life(tiny_variant, tmp_path)
    text, _ = life.ask(SYSTEM)
    life.batch.save()
    after = Life(tiny_variant, tmp_path)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-4096])
    again, done = after.ask(SYSTEM)
    assert (again, done.cached_count) == (text, 0)
    assert files(tmp_path) == []


def test_every_slot_is_saved(tiny_variant: Path, tmp_path: Path) -> None:
    life = Life(tiny_variant, tmp_path, num_slots=3)
    for name in ("one", "two", "three"):
        life.ask(f"{name}: {SYSTEM}")
    life.batch.save()
    assert len(files(tmp_path)) == 3


def test_without_a_folder_nothing_is_saved(tiny_variant: Path, tmp_path: Path) -> None:
    info = read_variant(tiny_variant)
    assert info is not None
    assert saved_prompts(Load(str(tiny_variant), 64), info, float_form(info), load_provider("cpu", 1)) is None
    assert files(tmp_path) == []
