from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import pytest

from hearthd.duration import FOREVER_NS, keep_alive_ns

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance"))
CASES = ROOT / "api_types" / "TestKeepAliveParsingFromJSON.json"

pytestmark = pytest.mark.skipif(not CASES.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")

GO_NS = {"time.Second": 10**9, "time.Minute": 60 * 10**9, "time.Millisecond": 10**6, "math.MaxInt64": FOREVER_NS}


def go_duration(factors: list[Any]) -> int:
    return prod(GO_NS[factor["_ident"]] if isinstance(factor, dict) else factor for factor in factors)


def test_json_values_mean_what_is_recorded() -> None:
    checked = 0
    for case in json.loads(CASES.read_text()):
        request = json.loads(case["req"])
        if "keep_alive" in request:
            assert keep_alive_ns(request["keep_alive"]) == go_duration(case["exp"]), case["name"]
            checked += 1
        else:
            assert case["exp"] is None
    assert checked
