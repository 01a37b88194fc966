"""`hearth run` on a terminal."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.hearth import Terminal, terminal
from tests.tiny import write_tiny_gguf

HINT = "Send a message (/? for help)"


SHORT = {"num_predict": 8, "temperature": 0}
ENDLESS = {"num_predict": 1_000_000, "num_ctx": 60_000, "temperature": 50.0, "top_k": 20, "top_p": 1.0}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def models(daemon: Daemon) -> Iterator[None]:
    """One with short answers, always the same, and one that talks on."""
    for name, parameters in (("short", SHORT), ("long", ENDLESS)):
        answer = daemon.post("/api/create", model=name, parameters=parameters, stream=False, **{"from": "tiny"})
        assert answer.json() == {"status": "success"}
    yield
    daemon.delete("short")
    daemon.delete("long")


@pytest.fixture
def talk(daemon: Daemon, home: Path) -> Iterator[Terminal]:
    """A conversation with `short`, at its prompt."""
    with terminal(daemon, home, "run", "short", "--nowordwrap", columns=200) as opened:
        opened.expect(HINT)
        yield opened


def reply(talk: Terminal, text: str) -> str:
    """What stands between the line typed and the next prompt."""
    talk.line(text)
    talk.expect(f">>> {text}\n")
    return talk.expect(HINT).removesuffix(f">>> {HINT}")


def answer_to(daemon: Daemon, *contents: str) -> str:
    """What `short` answers to a conversation, the user's turn first."""
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(contents)]
    return str(daemon.post("/api/chat", model="short", messages=messages, stream=False).json()["message"]["content"])


def shown(text: str) -> str:
    """As a terminal is given it."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable()).rstrip()


def kept(talk: Terminal, daemon: Daemon) -> list[dict[str, str]]:
    """The messages of the conversation, by way of a model that keeps them."""
    reply(talk, "/save kept")
    messages: list[dict[str, str]] = daemon.post("/api/show", model="kept").json()["messages"]
    daemon.delete("kept")
    return messages


def test_a_conversation_remembers_what_was_said(talk: Terminal, daemon: Daemon) -> None:
    first = answer_to(daemon, "and then")
    assert first.strip()
    assert shown(reply(talk, "and then")) == shown(first)
    assert shown(reply(talk, "what else")) == shown(answer_to(daemon, "and then", first, "what else"))


def test_clear_forgets_it(talk: Terminal, daemon: Daemon) -> None:
    reply(talk, "hello")
    assert reply(talk, "/clear") == "Cleared session context\n"
    assert shown(reply(talk, "and then")) == shown(answer_to(daemon, "and then"))


def test_a_message_in_quotes_has_several_lines(talk: Terminal, daemon: Daemon) -> None:
    talk.line('"""one')
    talk.expect("... ")
    talk.line('two"""')
    talk.expect(HINT)
    assert kept(talk, daemon)[0]["content"] == "one\ntwo"


def test_pasted_lines_are_one_message(talk: Terminal, daemon: Daemon) -> None:
    assert "\x1b[?2004h" in talk.raw.decode()  # the terminal is asked to mark what is pasted
    talk.type("\x1b[200~one\rtwo\x1b[201~")
    talk.expect("two")
    talk.line("")
    talk.expect(HINT)
    assert kept(talk, daemon)[0]["content"] == "one\ntwo"


def test_an_interrupt_stops_the_answer_and_not_the_program(daemon: Daemon, home: Path) -> None:
    with terminal(daemon, home, "run", "long") as talk:
        talk.expect(HINT)
        talk.line("hello")
        talk.expect(">>> hello\n")
        talk.take(20)
        talk.type("\x03")
        talk.expect(HINT)
        talk.line("/bye")
        assert talk.wait() == 0
        assert "Traceback" not in talk.seen


def test_an_interrupt_at_the_prompt_says_how_to_leave(talk: Terminal) -> None:
    talk.type("\x03")
    talk.expect("Use Ctrl + d or /bye to exit.\n")
    talk.expect(HINT)
    talk.type("half a li")
    talk.expect(">>> half a li")
    talk.rest()
    talk.type("\x03")
    assert "exit" not in talk.expect(HINT)
    talk.type("\x04")
    assert talk.wait() == 0


def test_settings_change_the_request(talk: Terminal, daemon: Daemon) -> None:
    assert reply(talk, "/set parameter num_predict 3") == "Set parameter 'num_predict' to '3'\n"
    assert reply(talk, "/set verbose") == "Set 'verbose' mode.\n"
    assert "eval count:           3 token(s)\n" in reply(talk, "hello")
    assert reply(talk, "/set quiet") == "Set 'quiet' mode.\n"
    assert "eval count" not in reply(talk, "hello")
    assert reply(talk, '/set parameter stop "a b" c') == "Set parameter 'stop' to 'a b, c'\n"
    assert reply(talk, "/set system Be brief.") == "Set system message.\n"
    assert reply(talk, "/show system") == "Be brief.\n\n"
    parameters = reply(talk, "/show parameters")
    assert parameters.startswith("Model defined parameters:\n")
    assert f"\n  {'num_predict':<30} 8\n" in parameters
    assert f"User defined parameters:\n  {'num_predict':<30} 3\n  {'stop':<30} a b, c\n" in parameters


def test_a_system_message_may_have_several_lines(talk: Terminal) -> None:
    talk.line('/set system """Be brief.')
    talk.expect("... ")
    talk.line('Be kind."""')
    talk.expect("Set system message.\n")
    talk.expect(HINT)
    assert reply(talk, "/show system") == "Be brief.\nBe kind.\n\n"


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/nope", "Unknown command '/nope'. Type /? for help"),
        ("/set nope", "Unknown command '/set nope'. Type /? for help"),
        ("/show nope", "Unknown command '/show nope'. Type /? for help"),
        ("/set parameter nope 1", "Error: PARAMETER nope: unknown parameter 'nope'"),
        ("/set parameter seed x", "Error: PARAMETER seed: invalid int value [x]"),
        ("/set parameter seed 1 2", "Error: seed takes one value"),
        ("/set parameter", "/set parameter temperature NUMBER"),
        ("/set format", "Error: the format is json"),
        ("/set think loudly", "Error: 'loudly' is none of true, false"),
        ("/set nowordwrap", "Set 'nowordwrap' mode."),
        ("/set nothink", "Set 'nothink' mode."),
        ("/load nope", "Couldn't find model 'nope'"),
        ("/load", "Usage:\n  /load <modelname>"),
        ("/save a b", "Usage:\n  /save <modelname>"),
        ("/show license", "No license was specified for this model."),
        ("/show info", "    architecture        llama"),
        ("/show modelfile", "PARAMETER num_predict 8"),
        ("/list", "short:latest"),
        ("/?", "/? shortcuts"),
        ("/? shortcuts", "Ctrl + d"),
        ("/? set", "/set system TEXT"),
        ("/help show", "/show template"),
    ],
)
def test_a_command_answers(command: str, text: str, talk: Terminal) -> None:
    assert text in reply(talk, command)


def test_a_refused_request_is_told_and_the_conversation_goes_on(talk: Terminal, daemon: Daemon) -> None:
    reply(talk, "/set think")
    assert 'Error: "short" does not support thinking\n' in reply(talk, "hello")
    reply(talk, "/set nothink")
    assert shown(reply(talk, "and then")) == shown(answer_to(daemon, "and then"))


def test_a_saved_conversation_is_a_model_that_shows_it(talk: Terminal, daemon: Daemon, home: Path) -> None:
    first = shown(reply(talk, "and then"))
    reply(talk, "/set parameter seed 7")
    assert reply(talk, "/save kept") == "Created new model 'kept'\n"
    model = daemon.post("/api/show", model="kept").json()
    assert [message["role"] for message in model["messages"]] == ["user", "assistant"]
    assert "seed                           7" in model["parameters"]
    assert first in shown(reply(talk, "/load kept"))
    talk.line("/bye")
    assert talk.wait() == 0
    with terminal(daemon, home, "run", "kept", columns=200) as again:
        assert ">>> and then\n" in again.expect(HINT)
    daemon.delete("kept")


def test_what_was_typed_comes_back_in_the_next_conversation(talk: Terminal, daemon: Daemon, home: Path) -> None:
    reply(talk, "hello there")
    talk.line("/bye")
    assert talk.wait() == 0
    history = home / ".local" / "state" / "hearth" / "history"
    assert history.read_text() == "hello there\n/bye\n"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with terminal(daemon, home, "run", "short", columns=200) as again:
        again.expect(HINT)
        again.type("\x1b[A")
        again.expect("/bye")
        again.type("\x1b[A")
        again.expect("hello there")


@pytest.mark.parametrize("variable", ["HEARTH_NOHISTORY", "OLLAMA_NOHISTORY"])
def test_nothing_typed_is_kept_where_that_is_not_wanted(variable: str, daemon: Daemon, home: Path) -> None:
    with terminal(daemon, home, "run", "short", columns=80, **{variable: "1"}) as talk:
        talk.expect(HINT)
        talk.line("/bye")
        assert talk.wait() == 0
    assert not (home / ".local").exists()


def test_history_can_be_turned_off(talk: Terminal, home: Path) -> None:
    reply(talk, "/set nohistory")
    talk.line("/bye")
    assert talk.wait() == 0
    history = home / ".local" / "state" / "hearth" / "history"
    assert history.read_text() == "/set nohistory\n"


def test_a_model_without_a_chat_template_answers_too(daemon: Daemon, home: Path) -> None:
    gguf = write_tiny_gguf(home / "base.gguf", extra={"tokenizer.chat_template": ""})
    daemon.create("base", gguf, parameters={"num_predict": 4})
    with terminal(daemon, home, "run", "base") as talk:
        talk.expect(HINT)
        talk.line("/set parameter num_predict 4")
        talk.expect(HINT)
        talk.line("hello")
        talk.expect("hello\n")
        assert "Error" not in talk.expect(HINT)
    daemon.delete("base")


def test_the_terminal_is_left_as_it_was_found(daemon: Daemon, home: Path) -> None:
    with terminal(daemon, home, "run", "short") as talk:
        before = talk.modes()
        talk.expect(HINT)
        assert talk.modes() != before
        talk.type("\x04")
        assert talk.wait() == 0
        assert talk.modes() == before
        assert talk.raw.rindex(b"\x1b[?2004l") > talk.raw.rindex(b"\x1b[?2004h")


def test_a_terminal_without_abilities_gets_text_only(daemon: Daemon, home: Path) -> None:
    with terminal(daemon, home, "run", "short", columns=80, TERM="dumb") as talk:
        talk.expect(">>> ")
        talk.line("/clear")
        talk.expect("Cleared session context\n")
        talk.line("/bye")
        assert talk.wait() == 0
        assert b"\x1b" not in talk.raw
