from __future__ import annotations

import os
from pathlib import Path

import pytest

from hearthd.duration import FOREVER_NS, SECOND_NS
from hearthd.policy import Policy, PolicyFault, read_policy

FULL = """
[boot]
wait = true

[[models]]
name = "smollm2:135m"
keep_alive = "-1"
num_ctx = 4096

[[models]]
name = "http://neighbour:11434/library/tiny"
pull = false
load = false
keep_alive = 90

[[models]]
name = "hf.co/user/model:Q4_K_M"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hearth.toml"


def fault(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(PolicyFault) as caught:
        read_policy(path)
    return str(caught.value)


def test_every_key_is_read_and_what_is_not_said_has_its_default(path: Path) -> None:
    path.write_text(FULL)
    policy = read_policy(path)
    first, second, third = policy.models
    assert policy.wait
    assert (first.name.short, first.pull, first.load) == ("smollm2:135m", True, True)
    assert (first.keep_alive_ns, first.num_ctx) == (FOREVER_NS, 4096)
    assert (second.name.scheme, second.name.host, second.pull, second.load) == ("http", "neighbour:11434", False, False)
    assert second.keep_alive_ns == 90 * SECOND_NS
    assert (third.name.full, third.keep_alive_ns, third.num_ctx) == ("hf.co/user/model:Q4_K_M", None, None)
    assert policy.keep_alive_by_name() == {
        "smollm2:135m": FOREVER_NS,
        "neighbour:11434/library/tiny:latest": 90 * SECOND_NS,
    }


def test_no_file_and_an_empty_one_want_nothing(path: Path) -> None:
    assert read_policy(path) == Policy()
    path.touch()
    assert read_policy(path) == Policy()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[boots]", "there is no table 'boots'; is boot meant?"),
        ("zebra = 1", "there is no table 'zebra'; there is boot, models"),
        ("boot = 1", "[boot] is no table"),
        ("[boot]\nwait = 1", "[boot]: wait = 1 cannot be used; it takes true or false"),
        ("[boot]\nwiat = true", "[boot]: there is no key 'wiat'; is wait meant?"),
        ('[models]\nname = "a"', "models is no list: each model has its own [[models]]"),
        ("models = [1]", "models row 1 is no table"),
        ("[[models]]", 'models row 1: name is missing; it takes the name of a model such as "smollm2:135m"'),
        (
            '[[models]]\nname = "a"\n[[models]]\nname = "b"\nkeepalive = 1',
            "models row 2: there is no key 'keepalive'; is keep_alive meant?",
        ),
        (
            '[[models]]\nname = "../../etc/passwd"',
            "models row 1: name = '../../etc/passwd' cannot be used: it is no name; "
            "it takes the name of a model as `hearth pull` takes it",
        ),
        (
            '[[models]]\nname = "gpt-oss:120b-cloud"',
            "models row 1: name = 'gpt-oss:120b-cloud' cannot be used: it runs on somebody else's machine; "
            "it takes the name of a model as `hearth pull` takes it",
        ),
        (
            '[[models]]\nname = "ftp://a/b/c"',
            "models row 1: name = 'ftp://a/b/c' cannot be used: a registry is reached by https:// or http://; "
            "it takes the name of a model as `hearth pull` takes it",
        ),
        ('[[models]]\nname = "a"\npull = "no"', "models row 1: pull = 'no' cannot be used; it takes true or false"),
        (
            '[[models]]\nname = "a"\nnum_ctx = 0',
            "models row 1: num_ctx = 0 cannot be used; it takes a number of tokens, 1 to 16777216",
        ),
        (
            '[[models]]\nname = "a"\nkeep_alive = "soon"',
            "models row 1: keep_alive = 'soon' cannot be used: neither a duration nor a number of seconds; it takes "
            'a duration such as 90s, 5m or 1h30m, or a number of seconds; "-1" is for ever',
        ),
        (
            '[[models]]\nname = "tiny"\n[[models]]\nname = "Tiny:latest"',
            "models row 2: name: Tiny:latest stands in row 1 already",
        ),
    ],
)
def test_a_fault_is_one_sentence_with_its_place(path: Path, text: str, sentence: str) -> None:
    assert fault(path, text) == f"{path}: {sentence}"


@pytest.mark.parametrize("text", ["[[models", "a = " + "[" * 20_000, "a = " + "9" * 5000])
def test_what_is_not_toml_is_said(path: Path, text: str) -> None:
    assert fault(path, text).startswith(f"{path}: it is not TOML")


def test_a_file_is_bounded(path: Path) -> None:
    assert fault(path, "#" * 70_000) == f"{path} has more than 65536 bytes"
    assert "it names 300 models, more than 256" in fault(path, '[[models]]\nname="a"\n' * 300)


def test_what_cannot_be_read_as_text_is_said(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyFault, match="is not UTF-8 text"):
        read_policy(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(PolicyFault, match="cannot be read: Is a directory"):
        read_policy(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_of_others_is_said(path: Path) -> None:
    path.touch(0)
    with pytest.raises(PolicyFault, match="cannot be read: Permission denied"):
        read_policy(path)


def test_the_example_does_nothing_as_it_is_and_is_valid_without_its_comment_signs(path: Path) -> None:
    example = (Path(__file__).parents[2] / "systemd/hearth.toml").read_text()
    path.write_text(example)
    assert read_policy(path) == Policy()
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in example.splitlines()]
    path.write_text("\n".join(lines))
    policy = read_policy(path)
    assert policy.wait
    assert [(model.name.short, model.keep_alive_ns, model.num_ctx) for model in policy.models] == [
        ("smollm2:135m", FOREVER_NS, 4096)
    ]
