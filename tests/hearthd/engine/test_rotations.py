from __future__ import annotations

import numpy as np

from hearthd.engine.rotations import inv_freq_of, is_long, rotary_tables
from hearthd.store.variant import RopeInfo
from tests.variant_info import variant_info

PLAIN = RopeInfo([1.0, 0.1])
LONG = RopeInfo([1.0, 0.1, 0.01], 1.5, long_inv_freq=[0.5, 0.05, 0.005], long_attention_scale=2.0, short_context=8)


def test_each_rope_has_its_tables_of_its_own_width() -> None:
    tables = rotary_tables(variant_info(ropes=[PLAIN, LONG]), 6)
    assert {name: table.shape for name, table in tables.items()} == {
        "cos.0": (6, 2),
        "sin.0": (6, 2),
        "cos.1": (6, 3),
        "sin.1": (6, 3),
    }
    np.testing.assert_allclose(tables["sin.0"][3], np.sin([3.0, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(tables["cos.1"][3], 1.5 * np.cos([3.0, 0.3, 0.03]), rtol=1e-6)


def test_a_window_beyond_the_short_context_turns_by_the_long_frequencies_from_its_first_token_on() -> None:
    info = variant_info(ropes=[LONG])
    assert [is_long(info, num_ctx) for num_ctx in (8, 9)] == [False, True]
    np.testing.assert_allclose(rotary_tables(info, 9)["cos.0"][1], 2 * np.cos([0.5, 0.05, 0.005]), rtol=1e-6)
    np.testing.assert_array_equal(rotary_tables(info, 9, 2)["cos.0"], rotary_tables(info, 9)["cos.0"][:2])


def test_a_layer_turns_by_the_rope_that_it_is_given_or_not_at_all() -> None:
    info = variant_info(ropes=[PLAIN, LONG], layer_ropes=[1, -1, 0])
    assert [inv_freq_of(info, layer, 8) for layer in range(3)] == [LONG.inv_freq, [], PLAIN.inv_freq]
    assert inv_freq_of(info, 0, 9) == LONG.long_inv_freq
