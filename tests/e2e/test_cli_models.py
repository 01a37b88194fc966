"""The commands that list, show, make and remove models."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, eventually
from tests.e2e.hearth import COMMAND, environment, hearth


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def test_list_has_the_columns_that_scripts_read(daemon: Daemon, home: Path) -> None:
    (model,) = (item for item in daemon.http.get("/api/tags").json()["models"] if item["name"] == "tiny:latest")
    done = hearth(daemon, home, "list")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    (row,) = (row for row in rows if row.startswith("tiny:latest "))
    assert re.fullmatch(
        rf"tiny:latest +{model['digest'][:12]}    {model['size'] // 1000} KB +(Less|About|\d).* ago +",
        row,
    ), row
    assert heading.index("ID") == row.index(model["digest"][:12])


def test_list_takes_the_beginning_of_a_name(daemon: Daemon, home: Path) -> None:
    assert len(hearth(daemon, home, "ls", "TIN").stdout.splitlines()) == 2
    assert hearth(daemon, home, "ls", "no-such").stdout == "NAME    ID    SIZE    MODIFIED \n"


def test_a_reader_that_has_enough_is_no_failure(daemon: Daemon, home: Path) -> None:
    command = subprocess.Popen(
        [*COMMAND, "show", "--modelfile", "tiny"],
        env=environment(daemon.url, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == ""


def test_output_that_cannot_be_written_fails_in_a_sentence(daemon: Daemon, home: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "ls"],
            env=environment(daemon.url, home),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def test_closed_streams_lead_nowhere(daemon: Daemon, home: Path) -> None:
    shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh"]
    for words in (["ls"], ["run", "tiny"]):
        assert (
            subprocess.run([*shell, *COMMAND, *words], env=environment(daemon.url, home), check=False).returncode == 0
        )


def test_an_argument_that_is_no_text_is_refused(daemon: Daemon, home: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "show", b"\xff\xfe"], env=environment(daemon.url, home), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"Error: an argument or a variable of the environment is not valid text\n"


def test_ps_shows_what_is_loaded_and_stop_unloads_it(daemon: Daemon, home: Path) -> None:
    assert hearth(daemon, home, "stop", "tiny").returncode == 0  # another test's window is not asked for here
    eventually(lambda: not daemon.loaded(), "nothing is loaded")
    assert hearth(daemon, home, "run", "tiny", "--keepalive", "-1m").returncode == 0
    heading, row = hearth(daemon, home, "ps").stdout.splitlines()
    assert heading.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert re.fullmatch(r"tiny:latest +[0-9a-f]{12} +\d+ [KM]B +100% CPU +4096 +Forever +", row), row
    assert hearth(daemon, home, "run", "tiny", "--keepalive", "10m").returncode == 0
    assert "9 minutes from now" in hearth(daemon, home, "ps").stdout
    assert hearth(daemon, home, "stop", "tiny").returncode == 0
    eventually(lambda: not daemon.loaded(), "the model is unloaded")
    assert len(hearth(daemon, home, "ps").stdout.splitlines()) == 1


def test_show_tells_of_a_model_and_its_aspects(daemon: Daemon, home: Path) -> None:
    (home / "Modelfile").write_text('FROM tiny\nSYSTEM Be brief.\nPARAMETER stop "a b"\nLICENSE MIT\n')
    assert hearth(daemon, home, "create", "shown").returncode == 0
    whole = hearth(daemon, home, "show", "shown").stdout
    assert re.search(r"^    architecture        llama +$", whole, re.MULTILINE)
    assert [line.strip() for line in whole.splitlines() if re.match(r"  \S", line)] == [
        "Model", "Capabilities", "Parameters", "System", "License",
    ]  # fmt: skip
    for aspect, text in (
        ("system", "Be brief."),
        ("license", "MIT"),
        ("parameters", 'stop                           "a b"'),
    ):
        assert hearth(daemon, home, "show", "shown", f"--{aspect}").stdout == text + "\n"
    assert "\nSYSTEM Be brief.\n" in hearth(daemon, home, "show", "--modelfile", "shown").stdout
    assert "Metadata" in hearth(daemon, home, "show", "-v", "shown").stdout
    both = hearth(daemon, home, "show", "shown", "--system", "--license")
    assert both.returncode == 1
    assert both.stderr.startswith("Error: only one of --license, --modelfile, ")
    daemon.delete("shown")


def test_cp_and_rm_say_what_they_did(daemon: Daemon, home: Path) -> None:
    assert hearth(daemon, home, "cp", "tiny", "second").stdout == "copied 'tiny' to 'second'\n"
    assert hearth(daemon, home, "cp", "tiny", "third").returncode == 0
    assert hearth(daemon, home, "rm", "second", "third").stdout == "deleted 'second'\ndeleted 'third'\n"
    gone = hearth(daemon, home, "rm", "second")
    assert (gone.returncode, gone.stdout, gone.stderr) == (1, "", "Error: model 'second' not found\n")


@pytest.mark.parametrize("words", [["show", "nope"], ["stop", "nope"], ["cp", "nope", "b"]])
def test_a_model_that_is_not_here_is_named(words: list[str], daemon: Daemon, home: Path) -> None:
    done = hearth(daemon, home, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: model ['\"]nope(:latest)?['\"] not found\n", done.stderr)


def test_version_is_that_of_client_and_server(daemon: Daemon, home: Path) -> None:
    version = daemon.http.get("/api/version").json()["version"]
    assert hearth(daemon, home, "--version").stdout == f"hearth {version}\nserver at {daemon.url}: {version}\n"


def test_without_a_server_every_command_says_so(daemon: Daemon, home: Path) -> None:
    for words in (["ls"], ["run", "tiny", "x"], ["pull", "x"], ["create", "x"]):
        done = hearth(daemon, home, *words, HEARTH_HOST="127.0.0.1:1")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "Error: no server answers at http://127.0.0.1:1 (Connection refused); start one with 'hearth serve'\n"
        )


def test_create_uploads_files_beside_the_modelfile(daemon: Daemon, home: Path, tiny_gguf: Path) -> None:
    folder = home / "models"
    folder.mkdir()
    gguf = tiny_gguf.read_bytes() + b"\0" * 32  # a file that the server does not have
    (folder / "mine.gguf").write_bytes(gguf)
    (folder / "Mine").write_text('FROM ./mine.gguf\nPARAMETER temperature 0.5\nPARAMETER stop a\nPARAMETER stop b\n'
                                 'MESSAGE user hello\nMESSAGE assistant hi\nTEMPLATE {{ .Prompt }}\n')  # fmt: skip
    done = hearth(daemon, home, "create", "mine", "-f", "models/Mine")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("reading mine.gguf: ")
    assert any(line.startswith("uploading mine.gguf: 100% (") for line in lines)
    assert lines[-1] == "success"
    assert "\x1b" not in done.stderr
    assert daemon.http.head(f"/api/blobs/sha256:{hashlib.sha256(gguf).hexdigest()}").status_code == 200
    shown = daemon.post("/api/show", model="mine").json()
    assert sorted(shown["parameters"].split()) == ['"a"', '"b"', "0.5", "stop", "stop", "temperature"]
    assert [message["content"] for message in shown["messages"]] == ["hello", "hi"]
    assert shown["template"] == "{{ .Prompt }}"
    again = hearth(daemon, home, "create", "mine", "-f", "models/Mine")
    assert "uploading" not in again.stderr
    daemon.delete("mine")


def test_create_reads_a_modelfile_from_a_pipe(daemon: Daemon, home: Path, tiny_gguf: Path) -> None:
    (home / "tiny.gguf").symlink_to(tiny_gguf)
    for source in ("tiny.gguf", "~/tiny.gguf", "tiny"):
        assert hearth(daemon, home, "create", "piped", "-f", "-", stdin=f"FROM {source}\n").returncode == 0
        daemon.delete("piped")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SYSTEM x\n", "the Modelfile cannot be read: no FROM line"),
        ("FROM ./nope.gguf\n", "FROM ./nope.gguf: no such file"),
        ("FROM .\n", "FROM .: unknown type: there is no *.safetensors, *.gguf or *.onnx"),
        ("FROM ~no-such-user/x\n", "there is no such user"),
        ("FROM tiny\nADAPTER nope.gguf\n", "ADAPTER nope.gguf: no such file"),
        ("FROM tiny\nPARAMETER temperature hot\n", "PARAMETER temperature: invalid float value [hot]"),
        ("FROM tiny\nPARAMETER nope 1\n", "PARAMETER nope: unknown parameter 'nope'"),
        ("FROM tiny\nDRAFT x\n", "DRAFT is not supported yet"),
        ("FROM tiny\nNOPE x\n", "(line 2): command must be one of"),
    ],
)
def test_a_modelfile_that_cannot_be_is_refused(text: str, reason: str, daemon: Daemon, home: Path) -> None:
    (home / "Modelfile").write_text(text)
    done = hearth(daemon, home, "create", "x")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert reason in done.stderr


def test_a_modelfile_that_is_not_there_is_named(daemon: Daemon, home: Path) -> None:
    assert "no Modelfile in this directory" in hearth(daemon, home, "create", "x").stderr
    assert "nope cannot be read: No such file or directory" in hearth(daemon, home, "create", "x", "-f", "nope").stderr


def test_a_file_that_is_no_checkpoint_fails_with_the_servers_sentence(daemon: Daemon, home: Path) -> None:
    (home / "notes.gguf").write_text("not a checkpoint")
    (home / "Modelfile").write_text("FROM notes.gguf\n")
    done = hearth(daemon, home, "create", "x")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")


def test_check_reports_on_the_device(daemon: Daemon, home: Path) -> None:
    for options in ([], ["--verify"]):
        done = hearth(daemon, home, "check", *options, HEARTH_MODELS=str(home / "models"))
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1].startswith("0 failures, ")
        assert done.returncode == 0
    assert "--verify" in hearth(daemon, home, "check", "--help").stdout
    assert hearth(daemon, home, "check", "--nope").returncode == 2
