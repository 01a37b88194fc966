"""Settings that are read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.config import DEFAULT, Config, load
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


def test_a_variable_that_was_not_as_the_file_has_it_is_from_elsewhere(path: Path) -> None:
    path.write_text("A=1\n")
    found = Environment({"HEARTH_ENV_FILE": str(path), "A": "2"})
    path.write_text("")
    assert found.now()["A"] == "2"


def test_without_a_file_the_variables_stay_as_they_are() -> None:
    assert Environment({"A": "1"}).now() == {"A": "1"}
    assert Environment({"HEARTH_ENV_FILE": ""}).path is None


def test_a_file_that_could_not_be_read_at_the_start_stops_only_a_reload(path: Path) -> None:
    path.mkdir()
    found = Environment({"HEARTH_ENV_FILE": str(path), "A": "1"})
    with pytest.raises(CannotReload, match="cannot be read: Is a directory"):
        found.now()
    path.rmdir()
    assert found.now()["A"] == "1"


def test_a_setting_that_left_the_file_has_its_default_and_is_named_by_what_had_set_it(path: Path) -> None:
    found = environment(path, "OLLAMA_MAX_QUEUE=7")
    old = started(found)
    path.write_text("")
    result = change(old, found)
    assert result.changed == ("OLLAMA_MAX_QUEUE",)
    assert (result.config.max_queue, result.config.set_by["max_queue"]) == (512, DEFAULT)


@pytest.mark.parametrize(
    ("variable", "name", "value"),
    [("OLLAMA_HOST", "host", ":1"), ("HEARTH_HOST", "host", ":1"), ("HEARTH_CACHE", "cache", "/c")],
)
def test_what_needs_a_start_is_named_at_each_reload_until_it_is_taken_back(
    path: Path, variable: str, name: str, value: str
) -> None:
    found = environment(path, "")
    old = started(found)
    path.write_text(f"{variable}={value}\n")
    first = change(old, found)
    second = change(first.config, found)
    assert first.awaiting == second.awaiting == (variable,)
    assert getattr(second.config, name) == getattr(old, name)
    assert second.config.set_by[name] == DEFAULT
    path.write_text("")
    assert change(second.config, found).awaiting == ()


def test_a_secret_that_changed_is_named_and_not_shown(path: Path) -> None:
    found = environment(path, "")
    old = started(found)
    path.write_text("HEARTH_HUB_TOKEN=hf_s3cret\n")
    result = change(old, found)
    assert result.config.hub_token == "hf_s3cret"
    assert result.changed == ("HEARTH_HUB_TOKEN",)
    assert "s3cret" not in repr(result)


def test_what_is_odd_is_a_warning_and_stops_no_reload(path: Path) -> None:
    found = environment(path, "")
    old = started(found)
    path.write_text("HEARTH_WARMTH=1\nHEARTH_SHARE=1\n")
    result = change(old, found)
    assert result.config.share
    assert "HEARTH_WARMTH" in result.config.warnings[0]
