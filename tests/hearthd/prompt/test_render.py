from __future__ import annotations

from hearthd.prompt.render import Specials, Turn, render

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


def test_a_conversation_ends_where_the_answer_begins() -> None:
    text = render([Turn("system", "be brief"), Turn("user", "hi")], CHATML, Specials())
    assert text == "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_last_assistant_message_is_left_open() -> None:
    text = render([Turn("user", "hi"), Turn("assistant", "Well,")], CHATML, Specials())
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nWell,"


def test_template_syntax_in_a_message_is_only_text() -> None:
    assert "{{ 7 * 7 }}" in render([Turn("user", "{{ 7 * 7 }}")], CHATML, Specials())


def test_special_tokens_are_available_to_the_template() -> None:
    assert render([Turn("user", "hi")], WITH_BOS, Specials(bos="<s>", eos="</s>")) == "<s>hi</s>"


def test_bos_is_left_to_a_tokenizer_that_adds_it() -> None:
    assert render([Turn("user", "hi")], WITH_BOS, Specials(bos="<s>", eos="</s>", adds_bos=True)) == "hi</s>"


def test_without_a_template_the_prompt_is_plain_text() -> None:
    turns = [Turn("system", "s"), Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c"), Turn("user", "d")]
    assert render(turns, None, Specials()) == "a\n\nbcd"
