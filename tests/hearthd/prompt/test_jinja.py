from __future__ import annotations

import pytest

from hearthd.errors import BadRequest
from hearthd.prompt import jinja
from hearthd.prompt.jinja import render


def test_blocks_leave_no_blank_lines() -> None:
    assert render("{% if true %}\nyes\n{% endif %}\n") == "yes\n"


def test_loop_controls_work() -> None:
    source = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}"
    )
    assert render(source + "{% endfor %}") == "02"


def test_generation_marks_keep_what_is_inside() -> None:
    assert render("a{% generation %}b{% endgeneration %}c") == "abc"


def test_tojson_does_not_escape_for_html_or_ascii() -> None:
    assert render("{{ v | tojson }}", v={"a": "<é>"}) == '{"a": "<é>"}'


def test_strftime_now_gives_the_year() -> None:
    assert render("{{ strftime_now('%Y') | length }}") == "4"


def test_a_refusal_of_the_template_is_told_in_its_words() -> None:
    with pytest.raises(BadRequest, match="chat template: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}", "steps"),
        ("{% for i in range(999999999) %}{% endfor %}", "number 999999999"),
        ("{% set n = namespace(x='aaaaaaaa') %}{% for i in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}", "char"),
        ("{% set n = namespace(x='aaaaaaaa') %}{% for i in range(64) %}{% set n.x = n.x + n.x %}{% endfor %}", "char"),
        ("{% for i in range(90000) %}{{ 'aaaaaaaaaa' * 1000 }}{% endfor %}", "characters"),
        ("{{ 'a' * 999999999 }}", "characters"),
        ("{{ 999999999 * [1] }}", "characters"),
        ("{{ 'a'.ljust(999999999) }}", "number 999999999"),
        ("{{ '%999999999d' % 1 }}", "formats text"),
        ("{{ 'a' | center(999999999) }}", "center"),
        ("{{ 2 ** 99999 }}", "power 99999"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
    ],
)
def test_a_template_that_does_too_much_is_refused(source: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        render(source)


def test_steps_are_counted_anew_for_each_rendering() -> None:
    source = "{% for i in range(90000) %}{% endfor %}done"
    assert [render(source) for _ in range(3)] == ["done"] * 3


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__ }}", "{{ self.__init__.__globals__.os }}"],
)
def test_the_interpreter_is_out_of_reach(source: str) -> None:
    try:
        text = render(source)
    except BadRequest:
        return
    assert text == ""


def test_values_given_to_the_template_cannot_be_changed() -> None:
    with pytest.raises(BadRequest, match="append"):
        render("{{ v.append(1) }}", v=[])


@pytest.mark.parametrize("source", ["{% if", "{{ x | nosuchfilter }}", "{{ 1 / 0 }}", "{{ v[7].x }}", "{{ v + 1 }}"])
def test_a_broken_template_is_a_bad_request(source: str) -> None:
    with pytest.raises(BadRequest, match="chat template"):
        render(source, v=[])


def test_a_template_is_compiled_once() -> None:
    assert jinja._compile("{{ 1 }}") is jinja._compile("{{ 1 }}")
