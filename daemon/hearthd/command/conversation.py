"""`hearth run` without a prompt: a conversation at the terminal."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from hearthd.command.answer import Answer
from hearthd.command.client import Client
from hearthd.command.editor import Editor
from hearthd.command.failure import CommandFailed
from hearthd.command.replies import Chunk, Message, Shown
from hearthd.command.run import load
from hearthd.command.summary import summary
from hearthd.command.terminal import line, plain

PROMPT = ">>> "
CONTINUED = "... "
HINT = "Send a message (/? for help)"
QUOTES = '"""'
_TRUE = ("1", "t", "T", "true", "TRUE", "True")


class Conversation:
    """What was said, how the next answer is to be made and shown, and the loop that reads lines."""

    def __init__(self, client: Client, arguments: Namespace, fields: dict[str, Any], shown: Shown) -> None:
        self.client = client
        self.model: str = arguments.model
        self.shown = shown
        self.fields = fields  # of the request, beside model and messages
        self.options: dict[str, Any] = {}
        self.system = ""  # "": the model's own
        self.messages: list[Message] = []
        self.wrap = not arguments.nowordwrap
        self.verbose: bool = arguments.verbose
        self.hide_thinking: bool = arguments.hidethinking
        self.editor = Editor(history_path(os.environ))

    def talk(self) -> int:
        """Read and answer until the user leaves; 0."""
        load(self.client, {"model": self.model, **self.fields})
        self.recall()
        while True:
            try:
                text = self.editor.read(PROMPT, HINT)
                if text.startswith(QUOTES):
                    text = self.read_quoted(text.removeprefix(QUOTES))
                if not self._act(text):
                    return 0
            except EOFError:
                self.say("")
                return 0
            except KeyboardInterrupt as interrupt:
                self.say("" if interrupt.args else "\nUse Ctrl + d or /bye to exit.")
            except CommandFailed as error:
                sys.stderr.write(f"Error: {line(str(error))}\n\n")

    def read_quoted(self, begun: str) -> str:
        """The text up to the closing quotes, of which `begun` was read."""
        text = begun
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + self.editor.read(CONTINUED, "")
        return text.rstrip().removesuffix(QUOTES)

    def _act(self, text: str) -> bool:
        """Answer or obey; False where the user wants to leave."""
        from hearthd.command import slash

        if text.startswith("/"):
            return slash.obey(self, text)
        if text.strip():
            self.answer(text)
        return True

    def answer(self, text: str) -> None:
        """Send what the user said, show the answer, remember both. Ctrl-C ends the answer; what came of it counts."""
        asked = Message(role="user", content=text)
        answer = Answer(wrap=self.wrap, hide_thinking=self.hide_thinking)
        try:
            answer.show(self.client.stream("/api/chat", self._payload([*self.messages, asked]), Chunk))
        except KeyboardInterrupt:
            pass
        finally:
            if answer.content:
                self.messages += [asked, Message(role="assistant", content=answer.content)]
                self.say("\n")
        if self.verbose:
            sys.stderr.write(summary(answer.last) + "\n")

    def _payload(self, messages: list[Message]) -> dict[str, Any]:
        system = [Message(role="system", content=self.system)] if self.system else []
        options = {"options": self.options} if self.options else {}
        return {"model": self.model, "messages": [*system, *messages], **options, **self.fields}

    def recall(self) -> None:
        """Show the messages that the model brings along."""
        for message in self.shown.messages or []:
            if message.role == "user":
                self.say(f"{PROMPT}{plain(message.content)}")
            elif message.role == "assistant":
                self.say(f"{plain(message.content)}\n")

    def say(self, text: str) -> None:
        """A line on standard output."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def history_path(environ: os._Environ[str]) -> Path | None:
    """The file that keeps what was typed; None where the environment asks for none."""
    for variable in ("HEARTH_NOHISTORY", "OLLAMA_NOHISTORY"):
        if environ.get(variable, "").strip().strip("\"'") in _TRUE:
            return None
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path(environ.get("HOME") or "/nonexistent") / ".local" / "state"
    return base / "hearth" / "history"
