from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as TokenizerFile

from hearthd.engine.batch import Batch
from hearthd.engine.frames import (
    Done,
    Embed,
    Embedded,
    Failed,
    Frame,
    Generate,
    Grammar,
    Logprob,
    Piece,
    SamplingParams,
)
from hearthd.engine.sampler import Floats
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VariantInfo
from tests.variant_info import variant_info

GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(top_k=1)  # the best token too, but of a request that asks for no reproducible answer
SEEDED = SamplingParams(top_k=1, seed=7)
NUM_BYTES = 256
END = 256  # the id of </s>
CHUNK = 4


class Echo:
    """A device that continues a text with the given script, and checks that its KV cache is used rightly."""

    def __init__(self, tokenizer_path: Path, script: str, num_ctx: int = 64, num_slots: int = 1) -> None:
        self.tokenizer = Tokenizer(tokenizer_path, info())
        self.script = self.tokenizer.encode_plain(script)
        self.num_ctx = num_ctx
        self.num_slots = num_slots
        self.tile = self.chunk = CHUNK
        self.shifts = True
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.evaluated: list[tuple[int, int]] = []  # (tokens, past) of each prompt, or what of it was not cached
        self.calls: list[tuple[str, int]] = []  # ("prefill", tokens), ("decode", sequences), ("swap" ..
        self.logits: Floats = np.zeros((num_slots, NUM_BYTES + 1), np.float32)
        self.dropped: list[tuple[int, int, int]] = []  # (kept, count, length) of each call
        self.fails = False
        self.rows_wanted: list[int] = []  # of each call of read
        self._ends: dict[int, int] = {}  # id of a slot's list -> the length of its prompt

    @property
    def kv(self) -> list[int]:
        """The tokens of the first slot."""
        return self.slots[0]

    def _aim(self, row: int, slot: list[int]) -> None:
        num_decoded = len(slot) - self._ends[id(slot)]
        self.logits[row] = 0
        done = num_decoded >= len(self.script)
        self.logits[row, END if done else self.script[num_decoded]] = np.nan if self.fails else 1.0

    def prefill(self, slot: int, tokens: Sequence[int], past: int, *, last: bool) -> None:
        held = self.slots[slot]
        assert tokens and past <= len(held)
        assert past + len(tokens) <= self.num_ctx
        self.calls.append(("prefill", len(tokens)))
        before, start = self.evaluated[-1] if self.evaluated else (0, 0)
        if before and start + before == past and self._ends.get(id(held)) is None and len(held) == past:
            self.evaluated[-1] = before + len(tokens), start
        else:
            self.evaluated.append((len(tokens), past))
        held[past:] = tokens
        self._ends.pop(id(held), None)
        if last:
            self._ends[id(held)] = len(held)
            self._aim(0, held)

    def read(self, slot: int, tokens: Sequence[int], past: int, num_rows: int) -> Floats:
        """States of each token: itself, its position, 1."""
        self.prefill(slot, tokens, past, last=False)
        self.rows_wanted.append(num_rows)
        states = np.array([[token, past + place, 1] for place, token in enumerate(tokens)], np.float32)
        states[:] = np.nan if self.fails else states
        return states[len(tokens) - num_rows :]

    def decode(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
        self.calls.append(("decode", len(tokens)))
        for row, (token, past) in enumerate(zip(tokens, pasts, strict=True)):
            held = self.slots[row]
            assert past == len(held) < self.num_ctx
            held.append(token)
            self._aim(row, held)

    def drop(self, slot: int, kept: int, count: int, length: int) -> None:
        held = self.slots[slot]
        assert length == len(held) and count > 0 <= kept and kept + count <= length
        self.dropped.append((kept, count, length))
        del held[kept : kept + count]
        self._ends[id(held)] -= count

    def swap(self, left: int, right: int) -> None:
        assert left != right
        self.calls.append(("swap", left))
        self.slots[left], self.slots[right] = self.slots[right], self.slots[left]

    def copy(self, source: int, target: int, length: int) -> None:
        assert source != target and length <= len(self.slots[source])
        self.calls.append(("copy", length))
        self.slots[target][:] = self.slots[source][:length]

    def slot(self, index: int) -> NDArray[np.generic]:
        raise AssertionError("nothing is saved here")

    def release(self, slot: int, length: int) -> None:
        self.calls.append(("release", length))
        del self.slots[slot][length:]


def info(**fields: Any) -> VariantInfo:
    return variant_info(**{"vocab_size": NUM_BYTES + 1, "eos_ids": [END]} | fields)


@pytest.fixture
def tokenizer_path(tmp_path: Path) -> Path:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    file = TokenizerFile(models.BPE(vocab={character: n for n, character in enumerate(alphabet)}, merges=[]))
    file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    file.decoder = decoders.ByteLevel()
    file.add_special_tokens([AddedToken("</s>", special=True)])
    path = tmp_path / "tokenizer.json"
    file.save(str(path))
    return path


class Rig:
    """A batch over a device, and the frames that it sent."""

    def __init__(self, device: Echo, **fields: Any) -> None:
        self.device = device
        self.sent: list[Frame] = []
        self.batch = Batch(device, device.tokenizer, info(**fields), self._took)

    def _took(self, *frames: Frame) -> None:
        self.sent.extend(frames)

    def run(self, *requests: Generate | Embed) -> None:
        for request in requests:
            self.batch.add(request)
        while not self.batch.idle:
            self.batch.step()

    def text(self, request_id: int) -> str:
        return "".join(frame.text for frame in self.sent if isinstance(frame, Piece) and frame.id == request_id)

    def logprobs(self, request_id: int) -> list[Logprob]:
        pieces = [frame for frame in self.sent if isinstance(frame, Piece) and frame.id == request_id]
        return [logprob for piece in pieces for logprob in piece.logprobs]

    def done(self, request_id: int) -> Done:
        [frame] = [frame for frame in self.sent if isinstance(frame, Done) and frame.id == request_id]
        return frame

    def failed(self, request_id: int) -> Failed:
        [frame] = [frame for frame in self.sent if isinstance(frame, Failed) and frame.id == request_id]
        return frame


def test_text_up_to_the_end_token_with_its_counts(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "world"))
    rig.run(Generate(1, "hello ", sampling=GREEDY, want_context=True))
    done = rig.done(1)
    assert rig.text(1) == "world"
    assert (done.reason, done.prompt_count, done.cached_count, done.eval_count) == ("stop", 6, 0, 6)
    assert rig.device.tokenizer.text_of(done.context) == "hello world"


def test_the_context_precedes_the_prompt(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "."))
    context = rig.device.tokenizer.encode("first, ")
    rig.run(Generate(1, "second", context=context, sampling=GREEDY, want_context=True))
    assert rig.device.tokenizer.text_of(rig.done(1).context) == "first, second."


def test_an_unknown_context_id_fails_as_bad_request(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, ""))
    rig.run(Generate(1, "a", context=[99_999]))
    assert rig.failed(1).status == 400
    assert "99999" in rig.failed(1).message


def test_requests_are_served_in_the_order_they_came(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ab"))
    rig.run(*(Generate(n, "x", sampling=GREEDY) for n in (3, 1, 2)))
    assert [frame.id for frame in rig.sent if isinstance(frame, Done)] == [3, 1, 2]


def test_only_what_differs_from_the_last_sequence_is_evaluated(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abc"))
    rig.run(Generate(1, "hello", sampling=GREEDY), Generate(2, "helloab and more", sampling=DRAWN))
    assert rig.device.evaluated == [(5, 0), (9, 7)]
    assert rig.done(2).cached_count == 7
    assert rig.done(2).prompt_count == 16


def test_of_an_equal_prompt_the_last_token_is_evaluated_again(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abc"))
    rig.run(Generate(1, "hello", sampling=DRAWN), Generate(2, "hello", sampling=DRAWN))
    assert rig.device.evaluated == [(5, 0), (1, 4)]
    assert rig.text(1) == rig.text(2) == "abc"


def test_a_stop_string_ends_the_text_before_it_and_the_context_too(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "one END two"))
    rig.run(Generate(1, "x", stop=["END"], sampling=GREEDY, want_context=True))
    assert rig.text(1) == "one "
    assert rig.done(1).reason == "stop"
    assert rig.device.tokenizer.text_of(rig.done(1).context) == "xone "


def test_text_held_for_a_stop_is_shown_at_the_end(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "one EN"))
    rig.run(Generate(1, "x", stop=["END"], sampling=GREEDY))
    assert rig.text(1) == "one EN"


@pytest.mark.parametrize(
    ("num_predict", "want"), [(1, "a"), (3, "abc"), (10**9, "abcdef"), (0, "abcdef"), (-2, "abcdef")]
)
def test_num_predict_bounds_the_new_tokens(tokenizer_path: Path, num_predict: int, want: str) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdef"))
    rig.run(Generate(1, "x", num_predict=num_predict, sampling=GREEDY))
    assert rig.text(1) == want
    assert rig.done(1).reason == ("length" if num_predict in (1, 3) else "stop")


def test_without_shift_a_full_window_ends_with_length(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijkl" * 10, num_ctx=16))
    rig.run(Generate(1, "0123456789", sampling=GREEDY, shift=False))
    assert rig.done(1).reason == "length"
    assert rig.device.dropped == []
    assert len(rig.text(1)) == 7  # six that the cache still holds and one that is only shown


def test_a_model_that_repeats_itself_is_ended_with_length(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "z" * 200, num_ctx=256))
    rig.run(Generate(1, "x", sampling=GREEDY))
    assert rig.done(1).reason == "length"
    assert rig.text(1) == "z" * 31


@pytest.mark.parametrize(
    ("num_keep", "want"),
    [
        (0, "wxyz{|}~"),  # 16 - max(16 // 2, 1) = 8 of the end
        (4, '!"#$yz{|}~'),  # 16 - 12 // 2 = 10, four of them kept
        (-1, "!\"#$%&'()*+,-./"),  # the front, as far as it fits
        (99, "!\"#$%&'()*+,-./"),
    ],
)
def test_a_prompt_beyond_the_window_keeps_its_front_and_its_end(tokenizer_path: Path, num_keep: int, want: str) -> None:
    rig = Rig(Echo(tokenizer_path, "", num_ctx=16))
    prompt = "".join(map(chr, range(0x21, 0x7F)))
    rig.run(Generate(1, prompt, num_keep=num_keep, sampling=GREEDY, want_context=True))
    assert rig.device.tokenizer.text_of(rig.device.kv) == want
    assert rig.done(1).prompt_count == len(want)
    assert rig.device.tokenizer.text_of(rig.done(1).context) == prompt  # the context is whole, for a wider window


def test_the_bos_token_is_kept_beside_num_keep(tokenizer_path: Path) -> None:
    device = Echo(tokenizer_path, "", num_ctx=16)
    facts = {"bos_id": 5, "add_bos": True}
    device.tokenizer = Tokenizer(tokenizer_path, info(**facts))
    rig = Rig(device, **facts)
    rig.run(Generate(1, "a" * 40, num_keep=1, sampling=GREEDY, want_context=True))
    assert rig.done(1).prompt_count == 16 - 14 // 2
    assert rig.device.kv == [5, *device.tokenizer.encode_plain("a" * 8)]


@pytest.mark.parametrize(("length", "fits"), [(15, True), (16, False)])
def test_without_truncate_a_prompt_beyond_the_window_fails_as_bad_request(
    tokenizer_path: Path, length: int, fits: bool
) -> None:
    rig = Rig(Echo(tokenizer_path, "", num_ctx=16))
    rig.run(Generate(1, "a" * length, truncate=False, sampling=GREEDY))
    if fits:
        assert rig.done(1).prompt_count == length
    else:
        assert rig.failed(1).status == 400
        assert rig.failed(1).message.startswith("the prompt is longer than the context length")


def test_without_shift_a_prompt_beyond_the_window_fails_as_bad_request(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "", num_ctx=16))
    rig.run(Generate(1, "a" * 16, shift=False, sampling=GREEDY))
    assert rig.failed(1).status == 400
    assert rig.failed(1).message.startswith("the prompt is longer than the context length")


def test_a_request_that_is_refused_leaves_the_cache_to_the_next(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "", num_ctx=16))
    rig.run(
        Generate(1, "0123456789", sampling=DRAWN),
        Generate(2, "a" * 16, truncate=False),
        Generate(3, "0123456789", sampling=DRAWN),
    )
    assert rig.failed(2).status == 400
    assert rig.done(3).cached_count == 9


def test_an_empty_prompt_fails_as_bad_request(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, ""))
    rig.run(Generate(1, ""))
    assert rig.failed(1).status == 400


def test_non_finite_logits_fail_one_request_and_the_next_is_served_from_an_empty_cache(tokenizer_path: Path) -> None:
    device = Echo(tokenizer_path, "ok")
    rig = Rig(device)
    device.fails = True
    rig.run(Generate(1, "hello", sampling=GREEDY))
    assert "not finite" in rig.failed(1).message
    device.fails = False
    rig.run(Generate(2, "hello", sampling=GREEDY))
    assert rig.text(2) == "ok"
    assert rig.done(2).cached_count == 0


def test_cancel_ends_the_running_request_within_a_step(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdef"))
    rig.batch.add(Generate(1, "x", sampling=GREEDY))
    while not rig.text(1):
        rig.batch.step()
    rig.batch.cancel(1)
    assert rig.batch.idle
    assert (rig.text(1), rig.done(1).reason) == ("ab", "cancel")


def test_cancel_between_two_chunks_of_a_prompt_keeps_what_is_evaluated(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ok"))
    rig.batch.add(Generate(1, "0123456789", sampling=GREEDY))
    rig.batch.step()  # one chunk
    rig.batch.cancel(1)
    rig.run(Generate(2, "0123456789", sampling=GREEDY))
    assert rig.done(1).reason == "cancel"
    assert rig.done(2).cached_count == CHUNK
    assert rig.device.calls[:3] == [("prefill", 4), ("prefill", 4), ("prefill", 2)]
    assert rig.text(2) == "ok"


def test_cancel_of_a_waiting_request_answers_at_once_and_spares_the_others(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ok"))
    rig.batch.add(Generate(1, "x", sampling=GREEDY))
    rig.batch.add(Generate(2, "y", sampling=GREEDY))
    rig.batch.step()
    rig.batch.cancel(2)
    assert rig.done(2).reason == "cancel"
    assert rig.done(2).eval_ns == 0
    rig.run()
    assert rig.text(1) == "ok"


def test_cancel_of_an_unknown_request_changes_nothing(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ok"))
    rig.batch.cancel(77)
    rig.run(Generate(1, "x", sampling=GREEDY))
    rig.batch.cancel(1)
    assert [type(frame) for frame in rig.sent].count(Done) == 1


def test_a_character_of_several_tokens_comes_as_one_piece(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "\U0001f44d"))
    rig.run(Generate(1, "x", sampling=GREEDY))
    assert [frame.text for frame in rig.sent if isinstance(frame, Piece)] == ["\U0001f44d"]


def test_a_character_that_stays_unfinished_is_not_shown(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "a\U0001f44d"))
    rig.run(Generate(1, "x", num_predict=3, sampling=GREEDY))
    assert rig.text(1) == "a"


@pytest.mark.parametrize("num_keep", [0, 3, 6, 99, -1])
def test_a_full_window_drops_half_of_what_is_not_kept_and_goes_on(tokenizer_path: Path, num_keep: int) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijkl" * 10, num_ctx=16))
    rig.run(Generate(1, "0123456789", num_keep=num_keep, num_predict=60, sampling=GREEDY, want_context=True))
    kept = {99: 15, -1: 10}.get(num_keep, num_keep)
    assert rig.text(1) == "abcdefghijkl" * 5
    assert (rig.done(1).reason, rig.done(1).eval_count) == ("length", 60)
    assert set(rig.device.dropped) == {(kept, max((16 - kept) // 2, 1), 16)}
    assert rig.device.tokenizer.text_of(rig.device.kv[: min(kept, 10)]) == "0123456789"[:kept]
    assert rig.device.tokenizer.text_of(rig.done(1).context) == "0123456789" + "abcdefghijkl" * 5


def test_the_bos_token_stays_when_the_window_shifts(tokenizer_path: Path) -> None:
    device = Echo(tokenizer_path, "abcdefghijkl" * 10, num_ctx=16)
    facts = {"bos_id": 5, "add_bos": True}
    device.tokenizer = Tokenizer(tokenizer_path, info(**facts))
    rig = Rig(device, **facts)
    rig.run(Generate(1, "0123", num_keep=0, num_predict=40, sampling=GREEDY))
    assert rig.device.kv[0] == 5
    assert {kept for kept, _, _ in rig.device.dropped} == {1}


@pytest.mark.parametrize("num_predict", [-1, 0, -2, 10**12])
def test_an_answer_ends_after_ten_windows(tokenizer_path: Path, num_predict: int) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijkl" * 100, num_ctx=16))
    rig.run(Generate(1, "x", num_predict=num_predict, sampling=GREEDY))
    assert (rig.done(1).reason, rig.done(1).eval_count) == ("length", 160)


def test_a_device_that_cannot_shift_ends_a_full_window_with_length(tokenizer_path: Path) -> None:
    device = Echo(tokenizer_path, "abcdefghijkl" * 10, num_ctx=16)
    device.shifts = False
    rig = Rig(device)
    rig.run(Generate(1, "0123456789", sampling=GREEDY))
    assert (rig.done(1).reason, rig.done(1).eval_count, device.dropped) == ("length", 7, [])


def test_a_window_of_one_token_still_answers(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abc", num_ctx=1))
    rig.run(Generate(1, "0123", sampling=GREEDY))
    assert (rig.text(1), rig.done(1).prompt_count) == ("abc", 1)


def test_a_shift_that_fails_fails_one_request_and_the_next_is_served_from_an_empty_cache(tokenizer_path: Path) -> None:
    class Short(Echo):
        """Has no memory left."""

        def drop(self, slot: int, kept: int, count: int, length: int) -> None:
            raise MemoryError("no memory")

    rig = Rig(Short(tokenizer_path, "abcdefghijkl", num_ctx=16))
    rig.run(Generate(1, "0123456789", sampling=DRAWN), Generate(2, "0123456", sampling=DRAWN, num_predict=3))
    assert rig.failed(1).status == 500
    assert "no memory" in rig.failed(1).message
    assert (rig.text(2), rig.done(2).cached_count) == ("abc", 0)


def test_after_a_shift_only_the_kept_tokens_serve_another_request(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijkl" * 10, num_ctx=16))
    rig.run(Generate(1, "0123456789", num_keep=4, num_predict=14, sampling=DRAWN))
    left = rig.device.tokenizer.text_of(rig.device.kv)
    assert len(left) > 6 and left.startswith("0123") and "456" not in left
    rig.run(Generate(2, left + "!", sampling=DRAWN))
    assert rig.done(2).cached_count == 4
    assert rig.text(2).startswith("abc")


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_a_reproducible_request_goes_on_only_from_whole_tiles_of_prompts(
    tokenizer_path: Path, sampling: SamplingParams
) -> None:
    rig = Rig(Echo(tokenizer_path, "abc"))
    rig.run(Generate(1, "0123456789", sampling=sampling))  # two tiles of four and two more
    rig.run(Generate(2, "0123456789abc, and so on", sampling=sampling))
    rig.run(Generate(3, "0123456789abc, and so on", sampling=sampling))
    assert [rig.done(n).cached_count for n in (1, 2, 3)] == [0, 8, 20]
    assert rig.device.evaluated == [(10, 0), (16, 8), (4, 20)]


def test_a_reproducible_request_evaluates_no_token_alone(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abc"))
    rig.run(Generate(1, "0123456789", sampling=SEEDED), Generate(2, "012345678", sampling=SEEDED))
    assert rig.device.evaluated == [(10, 0), (5, 4)]


def test_what_follows_a_generated_token_is_no_ground_for_a_reproducible_request(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcd"))
    rig.run(Generate(1, "0123", sampling=DRAWN), Generate(2, "0123abcd45678901", sampling=DRAWN))
    rig.run(Generate(3, "0123abcd45678901", sampling=SEEDED))
    assert [rig.done(n).cached_count for n in (1, 2, 3)] == [0, 8, 4]


@pytest.mark.parametrize("script", [" \n" * 200, "\n" * 200])
def test_a_model_that_says_nothing_but_blanks_is_ended_with_length(tokenizer_path: Path, script: str) -> None:
    rig = Rig(Echo(tokenizer_path, script, num_ctx=256))
    rig.run(Generate(1, "x", sampling=GREEDY))
    assert (rig.done(1).reason, rig.done(1).eval_count) == ("length", 31)
    assert len(rig.text(1)) == 31


def test_a_model_that_only_gives_tokens_without_text_is_ended_with_length(tokenizer_path: Path) -> None:
    device = Echo(tokenizer_path, "", num_ctx=256)
    device.script = [END] * 200
    rig = Rig(device, **{"eos_ids": []})
    rig.run(Generate(1, "x", sampling=GREEDY))
    assert (rig.text(1), rig.done(1).reason, rig.done(1).eval_count) == ("", "length", 31)


def test_a_visible_special_token_is_part_of_the_text_and_others_are_not(tokenizer_path: Path) -> None:
    device = Echo(tokenizer_path, "")
    device.script = [*device.tokenizer.encode_plain("a"), END, *device.tokenizer.encode_plain("b")]
    rig = Rig(device, **{"eos_ids": []})
    rig.run(Generate(1, "x", num_predict=3, visible=["</s>"], sampling=GREEDY))
    rig.run(Generate(2, "x", num_predict=3, visible=["</t>"], sampling=GREEDY))
    assert (rig.text(1), rig.text(2)) == ("a</s>b", "ab")


def test_every_shown_token_comes_with_its_logprob(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ab"))
    rig.run(Generate(1, "x", top_logprobs=2, sampling=GREEDY), Generate(2, "x", sampling=GREEDY))
    found = rig.logprobs(1)
    assert [(item.token, item.bytes, len(item.top)) for item in found] == [("a", [97], 2), ("b", [98], 2)]
    assert found[0].logprob == pytest.approx(1 - np.log(np.e + NUM_BYTES), abs=1e-5)
    assert found[0].top[0].token == "a"
    assert rig.logprobs(2) == []


def test_logprobs_come_without_text_and_also_for_a_stop_string(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "a\U0001f44dEND"))
    rig.run(Generate(1, "x", top_logprobs=0, stop=["END"], sampling=GREEDY))
    assert rig.text(1) == "a\U0001f44d"
    assert bytes(byte for item in rig.logprobs(1) for byte in item.bytes).decode() == "a\U0001f44dEND"
    assert all(item.top == [] for item in rig.logprobs(1))


SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)


def test_an_answer_held_to_a_grammar_ends_where_it_is_complete(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, '{"a":7} and more'))
    rig.run(Generate(1, "x", grammar=Grammar(SCHEMA), top_logprobs=0, sampling=GREEDY, want_context=True))
    assert (rig.text(1), rig.done(1).reason, rig.done(1).eval_count) == ('{"a":7}', "stop", 7)
    assert len(rig.logprobs(1)) == 7
    assert rig.device.tokenizer.text_of(rig.done(1).context) == 'x{"a":7}'


def test_a_grammar_keeps_the_model_from_what_it_would_say(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "Sure! Here"))
    rig.run(Generate(1, "x", grammar=Grammar(SCHEMA), num_predict=4, sampling=GREEDY))
    assert rig.text(1).replace(" ", "").replace("\n", "").startswith('{"a')
    assert rig.done(1).reason == "length"


def test_a_grammar_that_does_not_compile_fails_as_bad_request_before_any_evaluation(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ok"))
    rig.run(Generate(1, "x", grammar=Grammar('{"type": "nonsense"}')), Generate(2, "x", sampling=GREEDY))
    assert rig.failed(1).status == 400
    assert rig.device.evaluated == [(1, 0)]
    assert rig.text(2) == "ok"


def many(count: int, **fields: Any) -> list[Generate]:
    return [Generate(n, "prompt " + "abcdefgh"[n] * 3, sampling=GREEDY, **fields) for n in range(1, count + 1)]


def test_sequences_of_several_slots_share_every_step(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "hello world", num_slots=4))
    rig.run(*many(4))
    assert [rig.text(n) for n in (1, 2, 3, 4)] == ["hello world"] * 4
    assert ("decode", 4) in rig.device.calls
    assert sum(count for name, count in rig.device.calls if name == "decode") == 4 * len("hello world")


def test_a_sequence_joins_while_others_generate_and_leaves_them_running(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijklmnop", num_slots=2))
    rig.batch.add(Generate(1, "x", sampling=GREEDY))
    while len(rig.text(1)) < 4:
        rig.batch.step()
    rig.batch.add(Generate(2, "some longer prompt", num_predict=3, sampling=GREEDY))
    while not rig.text(2):
        shown = len(rig.text(1))
        rig.batch.step()
        assert len(rig.text(1)) == shown + 1  # one token a chunk of the other's prompt
    rig.run()
    assert (rig.text(1), rig.text(2)) == ("abcdefghijklmnop", "abc")


def test_more_sequences_than_slots_wait_in_the_order_they_came(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ab", num_slots=2))
    rig.run(*many(7))
    assert [frame.id for frame in rig.sent if isinstance(frame, Done)] == [1, 2, 3, 4, 5, 6, 7]


def test_a_short_answer_frees_its_slot_for_the_next_while_a_long_one_goes_on(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijklmnopqrstuvwxyz", num_slots=2))
    rig.run(
        Generate(1, "one", sampling=GREEDY),
        Generate(2, "two", num_predict=2, sampling=GREEDY),
        Generate(3, "three", num_predict=2, sampling=GREEDY),
    )
    assert [frame.id for frame in rig.sent if isinstance(frame, Done)] == [2, 3, 1]
    assert rig.text(1) == "abcdefghijklmnopqrstuvwxyz"


def test_each_sequence_keeps_its_own_text_when_slots_trade_places(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijklmnopqrstuvwxyz", num_slots=4))
    lengths = {1: 3, 2: 20, 3: 7, 4: 15, 5: 26, 6: 1, 7: 11, 8: 2}
    rig.run(*(Generate(n, f"prompt number {n}", num_predict=m, sampling=GREEDY) for n, m in lengths.items()))
    for n, length in lengths.items():
        assert rig.text(n) == "abcdefghijklmnopqrstuvwxyz"[:length]
    assert any(name == "swap" for name, _ in rig.device.calls)


def test_a_system_prompt_is_evaluated_once_for_all_slots(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ok", num_ctx=128, num_slots=3))
    system = "You are a helpful assistant of few words. "
    rig.run(Generate(1, system + "first question, which is rather long", sampling=DRAWN))
    rig.run(Generate(2, system + "second", sampling=DRAWN), Generate(3, system + "3rd", sampling=DRAWN))
    assert rig.done(2).cached_count == rig.done(3).cached_count == len(system)
    assert [rig.text(n) for n in (1, 2, 3)] == ["ok", "ok", "ok"]
    rig.run(Generate(4, system + "first question, which is rather longer", sampling=DRAWN))
    assert rig.done(4).cached_count == len(system + "first question, which is rather long")


def test_a_failure_of_one_sequence_leaves_the_others_their_answers(tokenizer_path: Path) -> None:
    class Flawed(Echo):
        """Gives one sequence no finite logits."""

        def decode(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
            super().decode(tokens, pasts)
            for row, held in enumerate(self.slots[: len(tokens)]):
                if self.tokenizer.text_of(held).startswith("bad"):
                    self.logits[row] = np.nan

    rig = Rig(Flawed(tokenizer_path, "abcdef", num_slots=3))
    prompts = ("good", "bad", "fine")
    rig.run(*(Generate(n, prompt, sampling=GREEDY) for n, prompt in enumerate(prompts, 1)))
    assert "not finite" in rig.failed(2).message
    assert (rig.text(1), rig.text(3)) == ("abcdef", "abcdef")


def test_a_step_that_fails_ends_those_who_took_part_and_the_next_are_served(tokenizer_path: Path) -> None:
    class Broken(Echo):
        """Fails once, in a step of two."""

        def decode(self, tokens: Sequence[int], pasts: Sequence[int]) -> None:
            if len(tokens) == 2 and not self.fails:
                self.fails = True
                raise MemoryError("no memory")
            super().decode(tokens, pasts)

        def _aim(self, row: int, slot: list[int]) -> None:
            fails, self.fails = self.fails, False
            super()._aim(row, slot)
            self.fails = fails

    rig = Rig(Broken(tokenizer_path, "abcdefghijkl", num_slots=2))
    rig.run(*many(3))
    assert "no memory" in rig.failed(1).message
    assert "no memory" in rig.failed(2).message
    assert rig.text(3) == "abcdefghijkl"


def test_trimming_gives_back_free_slots_and_leaves_running_sequences_alone(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdef", num_slots=2))
    rig.run(Generate(1, "hello", sampling=DRAWN), Generate(2, "other", sampling=DRAWN))
    rig.batch.add(Generate(3, "third prompt", sampling=DRAWN))
    rig.batch.step()
    rig.batch.trim()
    rig.run()
    assert rig.text(3) == "abcdef"
    assert rig.device.calls.count(("release", 0)) == 1
    rig.run(Generate(4, "hello", sampling=DRAWN), Generate(5, "third prompt", sampling=DRAWN))
    assert rig.done(4).cached_count == 0
    assert rig.done(5).cached_count == len("third prompt") - 1


def test_a_short_prompt_in_the_place_of_a_long_one_gives_memory_back(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "ok", num_ctx=1024))
    rig.run(Generate(1, "a" * 700, sampling=DRAWN), Generate(2, "short", sampling=DRAWN))
    assert ("release", 5) in rig.device.calls


def test_cancel_ends_one_of_several_and_the_rest_goes_on(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghij", num_slots=3))
    for request in many(3):
        rig.batch.add(request)
    while len(rig.text(3)) < 2:
        rig.batch.step()
    rig.batch.cancel(2)
    rig.run()
    assert rig.done(2).reason == "cancel"
    assert (rig.text(1), rig.text(3)) == ("abcdefghij", "abcdefghij")
    assert len(rig.text(2)) < 10


def test_a_full_window_shifts_in_its_own_slot(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "abcdefghijkl" * 3, num_ctx=16, num_slots=2))
    rig.run(
        Generate(1, "0123456789", num_predict=30, sampling=GREEDY),
        Generate(2, "01", num_predict=9, sampling=GREEDY),
    )
    assert rig.text(1) == ("abcdefghijkl" * 3)[:30]
    assert rig.text(2) == "abcdefghi"


# texts that become vectors


def embedded(rig: Rig, request_id: int) -> tuple[NDArray[np.float32], Embedded]:
    [frame] = [frame for frame in rig.sent if isinstance(frame, Embedded) and frame.id == request_id]
    return np.frombuffer(frame.vectors, "<f4").reshape(-1, frame.size), frame


def reader(tokenizer_path: Path, pooling: str = "", **fields: Any) -> Rig:
    return Rig(Echo(tokenizer_path, "."), has_hidden=True, hidden_size=3, pooling=pooling, **fields)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("", [ord("f"), 5, 1]), ("last", [ord("f"), 5, 1]), ("cls", [ord("a"), 0, 1]), ("mean", [99.5, 2.5, 1])],
)
def test_a_vector_is_pooled_over_all_chunks_as_the_model_says(
    tokenizer_path: Path, pooling: str, expected: list[float]
) -> None:
    rig = reader(tokenizer_path, pooling)
    letters = rig.device.tokenizer.encode_plain("abcdef")
    rig.run(Embed(1, [letters], normalize=False))
    vectors, frame = embedded(rig, 1)
    wanted = {ord("a"): letters[0], ord("f"): letters[5], 99.5: float(np.mean(letters))}
    assert vectors.tolist() == [[wanted.get(expected[0], expected[0]), *expected[1:]]]
    assert frame.prompt_count == 6


def test_no_states_are_asked_for_but_those_that_count(tokenizer_path: Path) -> None:
    for pooling, rows in (("", [0, 1]), ("mean", [CHUNK, 2])):
        rig = reader(tokenizer_path, pooling)
        rig.run(Embed(1, ["abcdef"]))
        assert rig.device.rows_wanted == rows


def test_texts_come_back_in_their_order_and_count_their_tokens(tokenizer_path: Path) -> None:
    rig = reader(tokenizer_path)
    rig.run(Embed(1, ["abc", "x", "abcdefgh"], normalize=False))
    vectors, frame = embedded(rig, 1)
    assert vectors[:, 1].tolist() == [2, 0, 7]
    assert frame.prompt_count == 12


def test_a_text_goes_on_from_whole_tiles_only_and_a_mean_from_nothing(tokenizer_path: Path) -> None:
    for pooling, evaluated in (("", [(10, 0), (6, 4)]), ("mean", [(10, 0), (10, 0)])):
        rig = reader(tokenizer_path, pooling)
        rig.run(Embed(1, ["abcdefghij"]), Embed(2, ["abcdefgXYZ"]))
        assert rig.device.evaluated == evaluated


def test_others_come_between_two_texts_of_one_request(tokenizer_path: Path) -> None:
    rig = reader(tokenizer_path)
    rig.run(Embed(1, ["abc"] * 5), Generate(2, "hello", sampling=GREEDY), Embed(3, ["x"]))
    order = [frame.id for frame in rig.sent if isinstance(frame, Done | Embedded)]
    assert order == [2, 3, 1]


def test_a_stream_goes_on_while_a_long_text_is_read(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "y" * 30, num_slots=2), has_hidden=True, hidden_size=3)
    rig.batch.add(Generate(1, "go", sampling=GREEDY))
    rig.batch.step()
    rig.batch.add(Embed(2, ["x" * 40]))
    before = len(rig.device.calls)
    while not any(isinstance(frame, Embedded) for frame in rig.sent):
        rig.batch.step()
    kinds = [kind for kind, _ in rig.device.calls[before:] if kind in ("prefill", "decode")]
    assert kinds == ["prefill", "decode"] * (40 // CHUNK)


def test_a_cancelled_request_is_not_answered_and_its_slot_is_free(tokenizer_path: Path) -> None:
    rig = reader(tokenizer_path)
    rig.batch.add(Embed(1, ["abcdefgh", "abc"]))
    rig.batch.step()
    rig.batch.cancel(1)
    assert (rig.batch.idle, rig.sent) == (True, [])
    rig.run(Embed(2, ["abc"]))
    assert [frame.id for frame in rig.sent if isinstance(frame, Embedded)] == [2]


def test_a_vector_that_is_no_number_fails_its_request_alone(tokenizer_path: Path) -> None:
    rig = reader(tokenizer_path)
    rig.device.fails = True
    rig.run(Embed(1, ["abc"]))
    assert rig.failed(1) == Failed(1, "embedding contains NaN or Inf values", 400)
    rig.device.fails = False
    rig.run(Embed(2, ["abc"]))
    assert embedded(rig, 2)[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Embed(1, ["a" * 65], truncate=False), "the input length exceeds the context length"),
        (Embed(1, ["b", [3, 4, 5000]]), "input: token id 5000 is not below the vocabulary size 257"),
    ],
)
def test_what_cannot_be_read_is_refused_as_bad_request(tokenizer_path: Path, request_: Embed, sentence: str) -> None:
    rig = reader(tokenizer_path)
    rig.run(request_)
    assert rig.failed(1) == Failed(1, sentence, 400)


def test_a_text_beyond_the_window_loses_its_end(tokenizer_path: Path) -> None:
    rig = reader(tokenizer_path)
    rig.run(Embed(1, ["a" * 100], normalize=False))
    vectors, frame = embedded(rig, 1)
    assert (vectors[0, 1], frame.prompt_count) == (63, 64)


def test_an_empty_text_is_read_as_the_token_that_begins_a_text(tokenizer_path: Path) -> None:
    rig = reader(tokenizer_path)
    rig.run(Embed(1, ["", "a"], normalize=False))
    assert embedded(rig, 1)[0][0].tolist() == [END, 0, 1]
    device = Echo(tokenizer_path, ".")
    device.tokenizer = Tokenizer(tokenizer_path, info(eos_ids=[]))
    bare = Rig(device, has_hidden=True, hidden_size=3)
    bare.run(Embed(1, [""]))
    assert "empty text" in bare.failed(1).message


def test_a_variant_of_an_older_converter_says_what_to_do(tokenizer_path: Path) -> None:
    rig = Rig(Echo(tokenizer_path, "."))
    rig.run(Embed(1, ["a"]))
    assert (rig.failed(1).status, "create or pull it again" in rig.failed(1).message) == (400, True)
