from __future__ import annotations

import pytest

from hearthd.engine.frames import Load
from hearthd.scheduler.lease import LoadOptions

LOADED = LoadOptions(num_ctx=2048, num_batch=512, num_thread=2, num_gpu=-1, use_mmap=True, use_mlock=False)


@pytest.mark.parametrize(
    ("asked", "met"),
    [
        (LoadOptions(), True),
        (LoadOptions(num_ctx=2048), True),
        (LoadOptions(num_ctx=4096), False),
        (LoadOptions(num_batch=256), False),
        (LoadOptions(num_thread=1), False),
        (LoadOptions(num_ctx=2048, num_batch=512, num_thread=2), True),
        (LoadOptions(num_gpu=20), False),
        (LoadOptions(use_mmap=True), True),
        (LoadOptions(use_mmap=False), False),
        (LoadOptions(use_mlock=False), True),
        (LoadOptions(use_mlock=True), False),
        (LoadOptions(vocab_only=True), False),
    ],
)
def test_options_are_met_unless_one_asks_for_another_value(asked: LoadOptions, met: bool) -> None:
    assert asked.met_by(LOADED) is met


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        (LoadOptions(num_ctx=99_999), LoadOptions(num_ctx=2048)),
        (LoadOptions(num_ctx=1), LoadOptions(num_ctx=4)),
        (LoadOptions(num_ctx=-5, num_batch=0, num_thread=0), LoadOptions(num_ctx=4, num_batch=1)),
        (LoadOptions(num_thread=-1), LoadOptions()),
        (LoadOptions(num_batch=2**63 - 1, num_thread=10_000), LoadOptions(num_batch=2048, num_thread=10_000)),
        (LoadOptions(num_gpu=0), LoadOptions()),
        (LoadOptions(num_gpu=99), LoadOptions()),
        (LoadOptions(use_mmap=False, vocab_only=True), LoadOptions(use_mmap=False, vocab_only=True)),
        (LoadOptions(), LoadOptions()),
    ],
)
def test_options_are_clamped_to_what_the_model_can(asked: LoadOptions, want: LoadOptions) -> None:
    assert asked.clamped(context_length=2048) == want


@pytest.mark.parametrize(("num_gpu", "want"), [(None, None), (-1, None), (-7, None), (0, 0), (20, 20)])
def test_where_an_accelerator_is_num_gpu_says_what_lies_on_it(num_gpu: int | None, want: int | None) -> None:
    assert LoadOptions(num_gpu=num_gpu).clamped(2048, accelerated=True) == LoadOptions(num_gpu=want)


def test_the_options_of_a_frame_are_met_by_itself() -> None:
    frame = Load("/variants/a", 512, num_threads=3, num_batch=64, use_mmap=False, use_mlock=True, vocab_only=True)
    options = LoadOptions.of(frame)
    assert options == LoadOptions(512, 64, 3, num_gpu=-1, use_mmap=False, use_mlock=True, vocab_only=True)
    assert options.met_by(options)
