from __future__ import annotations

import pytest

from hearthd.api.opening import load_options
from hearthd.options import OPTIONS, Kind, Options, merge
from hearthd.scheduler.lease import LoadOptions

LOAD_TIME = LoadOptions.__struct_fields__


@pytest.mark.parametrize("name", LOAD_TIME)
def test_load_time_option_reaches_the_load(name: str) -> None:
    value = OPTIONS[name] is Kind.BOOLEAN or 3
    assert getattr(load_options(merge({name: value})), name) == value
    assert load_options(merge({name: value})) != load_options(Options())


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - set(LOAD_TIME) - {"stop"}))
def test_other_options_ask_for_no_other_load(name: str) -> None:
    value = OPTIONS[name] is Kind.BOOLEAN or 3
    assert load_options(merge({name: value})) == load_options(Options())
