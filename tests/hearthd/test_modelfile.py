from __future__ import annotations

import pytest

from hearthd.modelfile import Command, ModelfileError, parse, print_modelfile


def commands(text: str | bytes) -> list[tuple[str, str]]:
    return [(command.name, command.args) for command in parse(text).commands]


def test_instructions_are_recognised_in_any_case() -> None:
    assert commands("from a\nSyStEm hi\n") == [("model", "a"), ("system", "hi")]


def test_hash_begins_a_comment_only_where_an_instruction_could_begin() -> None:
    assert commands("# one\n  # two\nFROM a # b\n") == [("model", "a # b")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_byte_order_marks_are_honoured(encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    assert commands((mark + "FROM é漢").encode(encoding)) == [("model", "é漢")]


def test_carriage_returns_end_lines() -> None:
    assert commands("FROM a\r\nSYSTEM hi\r\nLICENSE x\rTEMPLATE y") == [
        ("model", "a"),
        ("system", "hi"),
        ("license", "x"),
        ("template", "y"),
    ]


def test_line_ends_and_tabs_survive_in_quotes_and_control_characters_do_not() -> None:
    assert commands('FROM a\nSYSTEM """x\r\n\ty\x07\x00z"""\n')[1] == ("system", "x\r\n\tyz")


def test_quote_inside_a_value_is_text() -> None:
    assert commands('FROM a\nSYSTEM say "hi"\n')[1] == ("system", 'say "hi"')


def test_invalid_utf8_is_replaced() -> None:
    assert commands(b"FROM a\nSYSTEM \xff\n")[1] == ("system", "\ufffd")


@pytest.mark.parametrize("text", ['SYSTEM ""\nFROM a', 'SYSTEM """"""\nFROM a', "SYSTEM \nFROM a"])
def test_empty_value_is_empty_text(text: str) -> None:
    assert commands(text)[0] == ("system", "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("FROM a\n\nEXPLODE now", '(line 3): command must be one of "from", "license"'),
        ("FROM a\nSYSTEM\n", '(line 2): command must be one of "from"'),
        ("FROM a\r\nMESSAGE tool hi", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM a\nMESSAGE System hi", "(line 2): message role must be"),
        ("FROM a\nPARAMETER system hi", "(line 2): unknown parameter 'system'"),
        ("FROM", "unexpected EOF: the FROM in line 1"),
        ("FROM a\nPARAMETER", "unexpected EOF: the PARAMETER in line 2"),
        ("FROM a\nPARAMETER top_k", "unexpected EOF: the instruction in line 2"),
        ("FROM a\nMESSAGE user", "unexpected EOF: the instruction in line 2"),
        ('FROM a\nSYSTEM """x\n\ny', "unexpected EOF: the quoted value in line 2"),
        ("SYSTEM hi", "no FROM line"),
        ("", "no FROM line"),
    ],
)
def test_faults_are_refused_naming_the_line(text: str, sentence: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert str(caught.value).startswith(sentence)
    assert caught.value.status == 400


def test_views_tell_parameters_and_messages_apart() -> None:
    modelfile = parse("FROM a\nFROM b\nPARAMETER stop x\nPARAMETER stop y\nMESSAGE user a: b\nSYSTEM s")
    assert modelfile.values("model") == ["a", "b"]
    assert modelfile.parameters() == [("stop", "x"), ("stop", "y")]
    assert modelfile.messages() == [("user", "a: b")]


@pytest.mark.parametrize(
    "args",
    [
        "",
        "plain",
        " led",
        "trailed ",
        "\ttab",
        "two\nlines",
        'a "b"\nc',
        '"quoted"',
        '"',
        "x\r\ny",
        "# no comment",
        '"""',
    ],
)
def test_printed_modelfile_parses_to_the_same_commands(args: str) -> None:
    before = [
        Command("model", args or "m"),
        Command("system", args),
        Command("stop", args),
        Command("message", f"user: {args}"),
    ]
    assert list(parse(print_modelfile(before)).commands) == before


def test_multi_line_text_without_quotes_is_printed_in_single_quotes() -> None:
    assert print_modelfile([Command("model", "a"), Command("system", "x\ny")]) == 'FROM a\nSYSTEM "x\ny"\n'


def test_a_million_quotes_that_close_nothing_are_text() -> None:
    inner = '\n""" x\n \t' * 1_000_000
    assert parse(f'FROM a\nSYSTEM """{inner}"""').values("system") == [inner]
