from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import decoders, models, pre_tokenizers

from hearthd.engine.encoding import Encodings
from hearthd.engine.frames import Embed, Embedded, Failed, Frame, Generate
from hearthd.engine.tokens import Tokenizer
from tests.variant_info import variant_info

NUM_CTX = 6
POISON = 0  # the first token of a text that makes the encoder fail


class Lengths:
    """An encoder that reads a text a step, the longest first, and tells its length and its first token."""

    def __init__(self) -> None:
        self.hidden_size = 2
        self.num_batch = 0  # nobody shares a step
        self.fails = False
        self.num_steps = 0
        self.together: list[int] = []  # texts of each call that reads them at once

    def vectors(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        if self.fails or any(text[0] == POISON for text in texts):
            raise RuntimeError("out of memory")
        self.together.append(len(texts))
        return np.array([[len(text), text[0]] for text in texts], np.float32)

    def batches(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
            if self.fails or texts[index][0] == POISON:
                raise RuntimeError("out of memory")
            self.num_steps += 1
            yield [index], np.array([[len(texts[index]), texts[index][0]]], np.float32)


class Rig:
    """The requests of one encoder, and what was answered."""

    def __init__(self, path: Path) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        file = TokenizerFile(models.BPE(vocab={character: n for n, character in enumerate(alphabet)}, merges=[]))
        file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        file.decoder = decoders.ByteLevel()
        file.save(str(path))
        self.encoder = Lengths()
        self.sent: list[Frame] = []
        self.encodings = Encodings(self.encoder, Tokenizer(path, variant_info()), NUM_CTX, self.sent.append)

    def enter(self, *requests: Embed) -> None:
        for request in requests:
            self.encodings.enter(self.encodings.preparation.prepared(request))

    def run(self) -> list[Frame]:
        while not self.encodings.idle:
            self.encodings.step()
        return self.sent


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "tokenizer.json")


def test_vectors_come_back_in_the_order_of_the_texts(rig: Rig) -> None:
    rig.enter(Embed(1, ["ab", "abcd", "a"], normalize=False))
    [frame] = rig.run()
    assert isinstance(frame, Embedded)
    assert np.frombuffer(frame.vectors, "<f4").reshape(3, 2)[:, 0].tolist() == [2, 4, 1]
    assert (frame.id, frame.size, frame.prompt_count) == (1, 2, 7)
    assert frame.prompt_ns > 0


def test_requests_take_turns_so_that_a_short_one_does_not_wait_for_a_long_one(rig: Rig) -> None:
    rig.enter(Embed(1, ["a"] * 9), Embed(2, ["a"]))
    assert [frame.id for frame in rig.run() if isinstance(frame, Embedded)] == [2, 1]


def test_a_cancelled_request_is_neither_read_further_nor_answered(rig: Rig) -> None:
    rig.enter(Embed(1, ["a"] * 9), Embed(2, ["a"]))
    rig.encodings.step()
    rig.encodings.cancel(1)
    rig.encodings.cancel(99)
    assert [frame.id for frame in rig.run() if isinstance(frame, Embedded)] == [2]
    assert rig.encoder.num_steps == 2


def test_a_step_that_fails_ends_its_request_alone(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.enter(Embed(1, ["a"]))
    rig.encoder.fails = True
    [failed] = rig.run()
    assert failed == Failed(1, "the model runner failed: RuntimeError: out of memory")
    assert "out of memory" in capfd.readouterr().err
    rig.encoder.fails = False
    rig.enter(Embed(2, ["a"]))
    assert isinstance(rig.run()[-1], Embedded)


def test_a_text_beyond_the_window_is_cut_or_refused(rig: Rig) -> None:
    rig.enter(Embed(1, ["abcdefghijk"]))
    [frame] = rig.run()
    assert isinstance(frame, Embedded)
    assert frame.prompt_count == NUM_CTX
    with pytest.raises(ValueError, match="the input length exceeds the context length"):
        rig.enter(Embed(2, ["abcdefghijk"], truncate=False))


def test_text_is_not_generated(rig: Rig) -> None:
    with pytest.raises(ValueError, match="makes embeddings, not text"):
        rig.encodings.preparation.prepared(Generate(1, "hello"))


def test_small_requests_that_wait_together_share_a_step(rig: Rig) -> None:
    rig.encoder.num_batch = 7
    rig.enter(Embed(1, ["ab", "c"], normalize=False), Embed(2, ["abcdef"], normalize=False), Embed(3, ["abcd"]))
    frames = [frame for frame in rig.run() if isinstance(frame, Embedded)]
    assert [frame.id for frame in frames] == [1, 3, 2]
    assert (rig.encoder.together, [frame.prompt_count for frame in frames]) == ([3], [3, 4, 6])
    assert np.frombuffer(frames[0].vectors, "<f4").reshape(2, 2)[:, 0].tolist() == [2, 1]
    assert np.frombuffer(frames[2].vectors, "<f4").tolist()[0] == 6


def test_of_a_shared_step_that_fails_each_request_is_read_alone(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.encoder.num_batch = 100
    rig.enter(Embed(1, ["ab"]), Embed(2, [[POISON]]), Embed(3, ["abcd"]))
    assert [(type(frame), frame.id) for frame in rig.run() if isinstance(frame, Embedded | Failed)] == [
        (Failed, 2),
        (Embedded, 1),
        (Embedded, 3),
    ]
    assert "out of memory" in capfd.readouterr().err
