from __future__ import annotations

import pytest

from hearthd.scheduler.lease import LoadOptions

LOADED = LoadOptions(num_ctx=2048, num_batch=512, num_thread=2)


@pytest.mark.parametrize(
    ("asked", "met"),
    [
        (LoadOptions(), True),
        (LoadOptions(num_ctx=2048), True),
        (LoadOptions(num_ctx=4096), False),
        (LoadOptions(num_batch=256), False),
        (LoadOptions(num_thread=1), False),
        (LoadOptions(num_ctx=2048, num_batch=512, num_thread=2), True),
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
        (LoadOptions(), LoadOptions()),
    ],
)
def test_options_are_clamped_to_what_the_model_can(asked: LoadOptions, want: LoadOptions) -> None:
    assert asked.clamped(context_length=2048) == want
