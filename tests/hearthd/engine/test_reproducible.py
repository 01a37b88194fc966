"""The same prompt, seed and options give the same text, whatever the runner did before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hearthd.engine.batch import Batch
from hearthd.engine.frames import Done, Frame, Generate, Piece, SamplingParams
from hearthd.engine.session import open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import read_variant

pytestmark = pytest.mark.usefixtures("all_cores")

SEEDED = SamplingParams(temperature=1.5, top_p=1.0, top_k=0, seed=11)  # so flat that a last bit tells
GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(top_k=1)  # asks for nothing reproducible, and so takes all that is cached
PROSE = (Path(__file__).parents[2] / "data" / "prose.txt").read_text()
PROMPT = f"<|im_start|>user\nGo on with this:\n{PROSE[:700]}<|im_end|>\n<|im_start|>assistant\n"
NUM_PREDICT = 24
NUM_CTX = 768


class Rig:
    """SmolLM2 in a batch."""

    def __init__(self, variant: Path, num_slots: int = 1) -> None:
        info = read_variant(variant)
        assert info is not None
        self.sent: list[Frame] = []
        tokenizer = Tokenizer(variant / info.tokenizer, info)
        session = open_session(variant, info, num_ctx=NUM_CTX, num_threads=2, num_slots=num_slots)
        self.batch = Batch(session, tokenizer, info, self._took)

    def _took(self, *frames: Frame) -> None:
        self.sent.extend(frames)

    def run(self, *requests: Generate) -> None:
        for request in requests:
            self.batch.add(request)
        while not self.batch.idle:
            self.batch.step()

    def text(self, request_id: int) -> str:
        return "".join(frame.text for frame in self.sent if isinstance(frame, Piece) and frame.id == request_id)

    def done(self, request_id: int) -> Done:
        [done] = [frame for frame in self.sent if isinstance(frame, Done) and frame.id == request_id]
        return done

    def cached_count(self, request_id: int) -> int:
        return self.done(request_id).cached_count


@pytest.fixture(scope="module")
def rig(smollm2_variant: Path) -> Rig:
    return Rig(smollm2_variant)


@pytest.fixture(scope="module")
def wide(smollm2_variant: Path) -> Rig:
    return Rig(smollm2_variant, num_slots=4)


def asked(request_id: int, sampling: SamplingParams, prompt: str = PROMPT, num_predict: int = NUM_PREDICT) -> Generate:
    return Generate(request_id, prompt, sampling=sampling, num_predict=num_predict)


def same_prompt(rig: Rig) -> None:
    rig.run(asked(90, DRAWN))


def longer_conversation(rig: Rig) -> None:
    rig.run(asked(90, DRAWN), asked(91, DRAWN, PROMPT + "Well, " * 40))


def answer_as_prompt(rig: Rig) -> None:
    rig.run(asked(90, DRAWN, PROMPT[:400]), asked(91, DRAWN, PROMPT[:400] + rig.text(90) + PROMPT[400:]))


def shifted_window(rig: Rig) -> None:
    counting = PROMPT + ", ".join(map(str, range(1, 140)))
    rig.run(asked(90, GREEDY, counting))
    done = rig.done(90)
    assert done.prompt_count < NUM_CTX < done.prompt_count + done.eval_count


def cancelled_prompt(rig: Rig) -> None:
    rig.batch.add(asked(90, DRAWN))
    for _ in range(3):
        rig.batch.step()
    rig.batch.cancel(90)


def cancelled_answer(rig: Rig) -> None:
    rig.batch.add(asked(90, DRAWN, PROMPT + "Now"))
    while not rig.text(90):
        rig.batch.step()
    rig.batch.cancel(90)


@pytest.mark.parametrize("sampling", [SEEDED, GREEDY], ids=["seed", "greedy"])
@pytest.mark.parametrize(
    "before", [same_prompt, longer_conversation, answer_as_prompt, cancelled_prompt, cancelled_answer]
)
def test_the_text_is_that_of_an_empty_cache(rig: Rig, before: Callable[[Rig], None], sampling: SamplingParams) -> None:
    rig.sent.clear()
    rig.run(asked(1, DRAWN, "Something else"), asked(2, sampling))
    assert rig.cached_count(2) == 0
    before(rig)
    rig.run(asked(3, sampling), asked(4, sampling))
    assert rig.text(3) == rig.text(4) == rig.text(2) != ""
    assert rig.cached_count(4) >= 128  # the cache is used all the same


def test_the_text_is_that_of_an_empty_cache_after_a_shift(rig: Rig) -> None:
    rig.sent.clear()
    rig.run(asked(1, DRAWN, "Something else"), asked(2, SEEDED))
    shifted_window(rig)
    rig.run(asked(3, SEEDED))
    assert rig.cached_count(3) == 0
    assert rig.text(3) == rig.text(2)


def test_the_text_is_the_same_between_other_requests(rig: Rig) -> None:
    rig.sent.clear()
    rig.run(asked(1, SEEDED))
    rig.run(asked(90, DRAWN), asked(2, SEEDED), asked(91, DRAWN, PROMPT[:300]), asked(3, SEEDED), asked(92, SEEDED))
    assert rig.text(1) == rig.text(2) == rig.text(3)


def test_another_seed_gives_another_text(rig: Rig) -> None:
    rig.sent.clear()
    rig.run(asked(1, SEEDED), asked(2, SamplingParams(temperature=1.5, top_p=1.0, top_k=0, seed=12)))
    assert rig.text(1) != rig.text(2)


@pytest.mark.parametrize("sampling", [SEEDED, GREEDY], ids=["seed", "greedy"])
def test_the_text_is_the_same_alone_and_in_company(wide: Rig, sampling: SamplingParams) -> None:
    """On the kernels of this machine, a row of a step does not depend on the rows beside it."""
    prompts = {n: PROMPT[: 300 + 90 * n] for n in range(1, 7)}
    wide.sent.clear()
    for n, prompt in prompts.items():
        wide.run(asked(n, sampling, prompt))
    alone = [wide.text(n) for n in prompts]
    wide.sent.clear()
    wide.run(*(asked(n, sampling, prompt, NUM_PREDICT + n) for n, prompt in prompts.items()))
    for n, text in zip(prompts, alone, strict=True):
        assert wide.text(n).startswith(text) and text
