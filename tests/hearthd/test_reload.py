"""Settings that are read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.config import Config, load
from hearthd.reload import CannotReload, Environment, change


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hearth.env"


def environment(path: Path, text: str, **variables: str) -> Environment:
    """As a service has it that was started with the file."""
    path.write_text(text)
    given = dict(line.split("=", 1) for line in text.splitlines())
    return Environment({**variables, **given, "HEARTH_ENV_FILE": str(path)})


def started(environment: Environment) -> Config:
    return load(environment.now())


def test_what_the_file_says_now_counts(path: Path) -> None:
    found = environment(path, "HEARTH_MAX_QUEUE=1\nHEARTH_NUM_PARALLEL=2", HEARTH_MAX_LOADED_MODELS="3")
    path.write_text("HEARTH_MAX_QUEUE=5\n")
    now = found.now()
    assert now["HEARTH_MAX_QUEUE"] == "5"
    assert "HEARTH_NUM_PARALLEL" not in now
    assert now["HEARTH_MAX_LOADED_MODELS"] == "3"


def test_a_file_that_is_gone_says_nothing(path: Path) -> None:
    found = environment(path, "HEARTH_MAX_QUEUE=1")
    path.unlink()
    assert "HEARTH_MAX_QUEUE" not in found.now()


def test_a_file_that_cannot_be_read_is_named(path: Path) -> None:
    found = environment(path, "HEARTH_MAX_QUEUE=1")
    path.unlink()
    path.mkdir()
    with pytest.raises(CannotReload, match=str(path)):
        found.now()


def test_settings_that_can_change_do_and_the_others_wait_for_the_next_start(path: Path) -> None:
    found = environment(path, "HEARTH_MAX_QUEUE=1\nHEARTH_MODELS=/old")
    old = started(found)
    path.write_text("HEARTH_MAX_QUEUE=2\nHEARTH_MODELS=/new\nHEARTH_KEY=/new/key\n")
    result = change(old, found)
    assert result.config.max_queue == 2
    assert (result.config.models, result.config.key) == (old.models, old.key)
    assert result.changed == ("HEARTH_MAX_QUEUE",)
    assert set(result.awaiting) == {"HEARTH_MODELS", "HEARTH_KEY"}


def test_what_nobody_changed_is_no_change(path: Path) -> None:
    found = environment(path, "HEARTH_MAX_QUEUE=1")
    result = change(started(found), found)
    assert (result.changed, result.awaiting) == ((), ())


def test_every_value_that_cannot_be_read_is_named_and_no_secret_is_shown(path: Path) -> None:
    found = environment(path, "")
    old = started(found)
    path.write_text("HEARTH_MAX_QUEUE=soon\nHEARTH_KEEP_ALIVE=never\nHEARTH_HUB_TOKEN=my secret\n")
    with pytest.raises(CannotReload) as caught:
        change(old, found)
    said = str(caught.value)
    assert "HEARTH_MAX_QUEUE='soon'" in said
    assert "HEARTH_KEEP_ALIVE='never'" in said
    assert "HEARTH_HUB_TOKEN" in said
    assert "my secret" not in said
