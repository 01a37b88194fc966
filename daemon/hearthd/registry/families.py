"""The chat formats that many checkpoints share: the marks around turns, where a system text goes, what ends an answer.

The marks are facts of the formats, as their authors publish them in model cards and tokenizer configurations.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec


class Turn(msgspec.Struct, frozen=True):
    """What stands before and after the text of a turn."""

    opening: str
    closing: str = ""

    def around(self, text: str) -> str:
        """The turn that says `text`."""
        return f"{self.opening}{text}{self.closing}"


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One chat format."""

    name: str
    turns: dict[str, Turn]  # by role: system, user, assistant
    prompt: str | None = None  # what asks for an answer; None: the assistant's opening mark
    system_in_user: bool = False  # the system text stands within the user turn that follows it
    without_system: str = ""  # what Ollama's template of that name writes in its place where there is none
    told_by_system: bool = False  # only the place of the system text tells it from another family
    stop: tuple[str, ...]
    parameters: dict[str, Any] = {}  # beside `stop`

    @property
    def answer_mark(self) -> str:
        """What ends a prompt."""
        return self.turns["assistant"].opening if self.prompt is None else self.prompt

    def render(self, turns: list[tuple[str, str]]) -> str:
        """The prompt for (role, text) pairs."""
        written, pending = [], ""
        for role, text in turns:
            if role == "system" and self.system_in_user:
                pending = self.turns["system"].around(text) if text else ""
                continue
            written.append(self.turns[role].around(pending + text if role == "user" else text))
            pending = pending if role != "user" else ""
        return "".join(written) + self.answer_mark

    @property
    def template(self) -> str:
        """The format in Go's template language."""
        start, said = "", self._common_turn
        if not said:
            start, turns = self._turns_by_role()
            chosen = "{{ else ".join(f'if eq .Role "{role}" }}}}{text}' for role, text in turns.items())
            said = f"{{{{ {chosen}{{{{ end }}}}"
        return f"{start}{{{{ range .Messages }}}}{said}{{{{ end }}}}{self.answer_mark}"

    @property
    def _common_turn(self) -> str:
        """Any turn, where they differ only in the name of the role; else ""."""
        turns = {turn.around("{{ .Content }}").replace(role, "{{ .Role }}") for role, turn in self.turns.items()}
        return turns.pop() if len(turns) == 1 else ""

    def _turns_by_role(self) -> tuple[str, dict[str, str]]:
        """What comes first, and each role's turn."""
        said = {role: turn.around("{{ .Content }}") for role, turn in self.turns.items()}
        if not self.system_in_user:
            if not self.turns["system"].opening:
                said["system"] = f"{{{{ if .Content }}}}{said['system']}{{{{ end }}}}"
            return "", said
        held = self.turns["system"].around("{{ $system }}")
        absent = f"{{{{ else }}}}{self.without_system}" if self.without_system else ""
        said["system"] = "{{ $system = .Content }}"
        said["user"] = self.turns["user"].around(
            f'{{{{ if $system }}}}{held}{{{{ $system = "" }}}}{absent}{{{{ end }}}}{{{{ .Content }}}}'
        )
        return '{{ $system := "" }}', said


def _turns(system: str, user: str, assistant: str) -> dict[str, Turn]:
    """The three turns, each written with an ellipsis for its text."""
    kinds = {"system": system, "user": user, "assistant": assistant}
    return {kind: Turn(*written.split("…")) for kind, written in kinds.items()}


FAMILIES = (
    Family(
        name="chatml",
        turns=_turns(
            "<|im_start|>system\n…<|im_end|>\n",
            "<|im_start|>user\n…<|im_end|>\n",
            "<|im_start|>assistant\n…<|im_end|>\n",
        ),
        stop=("<|im_start|>", "<|im_end|>"),
    ),
    Family(
        name="llama3-instruct",
        turns=_turns(
            "<|start_header_id|>system<|end_header_id|>\n\n…<|eot_id|>",
            "<|start_header_id|>user<|end_header_id|>\n\n…<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n…<|eot_id|>",
        ),
        stop=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    Family(
        name="llama2-chat",
        turns=_turns("<<SYS>>\n…\n<</SYS>>\n\n", "[INST] … [/INST]", " …</s><s>"),
        prompt="",
        system_in_user=True,
        without_system="<<SYS>><</SYS>>\n\n",
        told_by_system=True,
        stop=("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    Family(
        name="mistral-instruct",
        turns=_turns("…\n\n", "[INST] …[/INST]", " …</s>"),
        prompt="",
        system_in_user=True,
        stop=("[INST]", "[/INST]"),
    ),
    Family(
        name="zephyr",
        turns=_turns("<|system|>\n…</s>\n", "<|user|>\n…</s>\n", "<|assistant|>\n…</s>\n"),
        stop=("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
    ),
    Family(
        name="phi-3",
        turns=_turns("<|system|>\n…<|end|>\n", "<|user|>\n…<|end|>\n", "<|assistant|>\n…<|end|>\n"),
        stop=("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    Family(
        name="gemma3-instruct",
        turns=_turns("…\n\n", "<start_of_turn>user\n…<end_of_turn>\n", "<start_of_turn>model\n…<end_of_turn>\n"),
        prompt="<start_of_turn>model\n\n",
        system_in_user=True,
        told_by_system=True,
        stop=("<end_of_turn>",),
        parameters={"temperature": 0.1},
    ),
    Family(
        name="gemma-instruct",
        turns=_turns("…\n", "<start_of_turn>user\n…<end_of_turn>\n", "<start_of_turn>model\n…<end_of_turn>\n"),
        system_in_user=True,
        stop=("<start_of_turn>", "<end_of_turn>"),
    ),
    Family(
        name="command-r",
        turns=_turns(
            "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>…<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>…<|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>…<|END_OF_TURN_TOKEN|>",
        ),
        stop=("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ),
    Family(
        name="openchat",
        turns=_turns(
            "GPT4 Correct System: …<|end_of_turn|>",
            "GPT4 Correct User: …<|end_of_turn|>",
            "GPT4 Correct Assistant: …<|end_of_turn|>",
        ),
        prompt="GPT4 Correct Assistant:",
        stop=("<|end_of_turn|>",),
    ),
    Family(
        name="vicuna",
        turns=_turns("…\n\n", "USER: …\n", "ASSISTANT: …</s>\n"),
        prompt="ASSISTANT:",
        stop=("USER:", "ASSISTANT:"),
    ),
    Family(
        name="alpaca",
        turns=_turns("…\n\n", "### Instruction:\n…\n\n", "### Response:\n…\n\n"),
        stop=("### Instruction:", "### Response"),
    ),
    Family(
        name="solar-instruct",
        turns=_turns("### System:\n…\n\n", "### User:\n…\n\n", "### Assistant:\n…</s>\n\n"),
        stop=("### System:", "### User:", "### Assistant"),
    ),
    Family(
        name="starcoder2-instruct",
        turns=_turns("…\n\n", "### Instruction\n…\n\n", "### Response\n…<|endoftext|>\n\n"),
        stop=("### Instruction", "### Response", "<|endoftext|>"),
    ),
    Family(
        name="magicoder",
        turns=_turns("…\n\n", "@@ Instruction\n…\n\n", "@@ Response\n…\n\n"),
        stop=("@@ Instruction", "@@ Response"),
    ),
    Family(
        name="granite-instruct",
        turns=_turns("System:\n…\n\n", "Question:\n…\n\n", "Answer:\n…\n\n"),
        stop=("System:", "Question:", "Answer:"),
    ),
    Family(
        name="chatqa",
        turns=_turns("System: …\n\n", "User: …\n\n", "Assistant: …\n\n"),
        prompt="Assistant:",
        stop=("System:", "User:", "Assistant:", "<|begin_of_text|>"),
    ),
    Family(
        name="falcon-instruct",
        turns=_turns("System: …\n", "User:\n…\n", "Falcon:\n…\n"),
        stop=("User:", "Falcon:"),
    ),
    Family(
        name="codellama-70b-instruct",
        turns=_turns("Source: system\n\n … <step> ", "Source: user\n\n … <step> ", "Source: assistant\n\n … <step> "),
        prompt="Source: assistant\nDestination: user\n\n ",
        stop=("Source:", "Destination:", "<step>"),
    ),
    Family(
        name="alfred",
        turns=_turns("<start_system>…<end_message>", "<start_user>…<end_message>", "<start_assistant>…<end_message>"),
        stop=("<start_system>", "<end_message>", "<start_user>", "<start_assistant>"),
    ),
)


@functools.cache
def _templates() -> frozenset[str]:
    return frozenset(family.template for family in FAMILIES)


def is_family_template(text: str) -> bool:
    """Whether `text` is what create writes for a chat format that it recognised."""
    return text in _templates()
