"""Checkpoints that the builder does not know, by way of Optimum, against transformers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from hearth_export.checkpoint import OPTIMUM
from hearth_export.errors import ExportError
from hearth_export.pipeline import convert
from hearth_export.precision import Goal
from hearthd.engine.bound import BoundGraph, cut
from hearthd.engine.providers.provider import load_provider
from hearthd.store.variant import VariantInfo, read_source, read_variant
from tests.e2e.daemon import running
from tests.with_transformers.harness import CONTEXT_LENGTH, SIZES, VOCAB_SIZE, cosines, text, write_tokenizer

Floats = NDArray[np.float32]
DIGEST = "sha256:" + "6" * 64

GPT2 = transformers.GPT2Config(
    vocab_size=VOCAB_SIZE, n_positions=CONTEXT_LENGTH, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2
)
BLOOM = transformers.BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=64, n_layer=2, n_head=4)
ELECTRA = transformers.ElectraConfig(**SIZES, embedding_size=64)
LLAMA = transformers.LlamaConfig(**SIZES)


def checkpoint(path: Path, config: Any, factory: Any = transformers.AutoModelForCausalLM) -> Any:
    """The model, which has been saved at `path` with random weights."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(5)
    model = factory.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(path)
    write_tokenizer(path)
    return model


def made(source: Path, root: Path, *, variant: str = "", route: str = "") -> tuple[Path, VariantInfo]:
    name = convert(source, DIGEST, root, Goal.BYTES, lambda *_: None, variant=variant, route=route)
    info = read_variant(root / name)
    assert info is not None
    return root / name, info


def stepwise_logits(directory: Path, info: VariantInfo, ids: list[int]) -> Floats:
    """(len(ids), V), each token behind the keys and values of those before."""
    assert info.binding is not None
    graph, states, rows = BoundGraph(load_provider("cpu", 1).open(directory / info.graph), info.binding), None, []
    for position, token in enumerate(ids):
        row, states = graph.step([token], position, states)
        rows.append(row)
        assert all(
            cut(state, array, position + 1).shape == array.shape
            for state, array in zip(info.binding.states, states, strict=True)
        )
    return np.stack(rows)


@pytest.mark.parametrize(
    ("config", "variant", "route", "least"),
    [
        (GPT2, "cpu-f32", "", 0.99999),
        (GPT2, "cpu-int8", "", 0.998),
        (BLOOM, "cpu-int4", "", 0.9),
        (LLAMA, "cpu-int8", OPTIMUM, 0.97),
    ],
    ids=["gpt2 float", "gpt2 8 bit", "bloom 4 bit", "llama on request"],
)
def test_decoder_gives_transformers_logits_step_by_step(
    tmp_path: Path, config: Any, variant: str, route: str, least: float
) -> None:
    model = checkpoint(tmp_path / "model", config)
    directory, info = made(tmp_path / "model", tmp_path / "out", variant=variant, route=route)
    assert (info.name, info.architecture, info.kind) == (variant, config.model_type, "decoder")
    ids = text(length=24)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    assert cosines(stepwise_logits(directory, info, ids), expected).min() >= least
    about = read_source(tmp_path / "out" / "source.json")
    assert about is not None and about.format == "safetensors" and about.parameter_count > 50000
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".tmp")]


def ask_decoder(daemon: Any, model: Any) -> None:
    prompt = "the an"
    body = {"prompt": prompt, "raw": True, "stream": False, "options": {"temperature": 0, "num_predict": 6}}
    answer = daemon.post("/api/generate", model="routed", **body).json()
    ids = transformers.AutoTokenizer.from_pretrained(model.name_or_path)(prompt)["input_ids"]
    with torch.no_grad():
        best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    first = transformers.AutoTokenizer.from_pretrained(model.name_or_path).decode([best])
    assert answer["eval_count"] <= 6 and answer["response"].startswith(first)


def ask_encoder(daemon: Any, model: Any) -> None:
    texts = ["the an", "in the end, here", "x"]
    found = np.array(daemon.post("/api/embed", model="routed", input=texts).json()["embeddings"], np.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.name_or_path)
    for vector, words in zip(found, texts, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([tokenizer(words)["input_ids"]])).last_hidden_state[0].numpy()
        mean = states.mean(0)
        assert vector @ mean / np.linalg.norm(mean) >= 0.999


@pytest.mark.parametrize(
    ("config", "factory", "ask"),
    [
        (GPT2, transformers.AutoModelForCausalLM, ask_decoder),
        (ELECTRA, transformers.AutoModel, ask_encoder),
    ],
    ids=["gpt2", "electra"],
)
def test_model_that_only_optimum_knows_is_served(
    tmp_path: Path, config: Any, factory: Any, ask: Callable[[Any, Any], None]
) -> None:
    model = checkpoint(tmp_path / "model", config, factory)
    model.name_or_path = str(tmp_path / "model")
    with running(tmp_path) as daemon:
        lines = daemon.lines("/api/create", model="routed", modelfile=f"FROM {tmp_path / 'model'}")
        assert lines[-1] == {"status": "success"}, lines[-1]
        assert any("Optimum" in line["status"] for line in lines)
        ask(daemon, model)


def test_type_that_optimum_does_not_export_is_refused_naming_it(tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=1, state_size=4)
    checkpoint(tmp_path / "model", config)
    with pytest.raises(ExportError, match="model_type is 'mamba', which neither the builder nor Optimum"):
        made(tmp_path / "model", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_code_of_the_repository_is_never_run(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", GPT2)
    config = tmp_path / "model" / "config.json"
    custom = '{"auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}, "model_type": "own",'
    config.write_text(config.read_text().replace('"model_type": "gpt2",', "").replace("{", custom, 1))
    (tmp_path / "model" / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ExportError, match="'own'"):
        made(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_missing_extra_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", GPT2)
    convert_it = (
        "import sys; sys.modules['optimum'] = None\n"
        "from hearth_export.__main__ import main\n"
        f"sys.exit(main(['convert', {str(tmp_path / 'model')!r}, '--digest', {DIGEST!r}, '--out', "
        f"{str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", convert_it], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "model_type is 'gpt2'" in done.stdout and "pip install 'hearthd[export]'" in done.stdout
    route = f"import sys; sys.modules['optimum'] = None\nfrom hearth_export.optimum_route import main\nsys.exit(main([{str(tmp_path / 'model')!r}, {str(tmp_path)!r}]))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", route], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "pip install 'hearthd[export]'" in done.stdout


def test_model_that_memory_cannot_hold_is_refused_with_both_numbers(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model", GPT2)
    huge = tmp_path / "model" / "model.safetensors"
    num_rows = 1 << 31
    header = b'{"wte.weight":{"dtype":"F32","shape":[%d,1024],"data_offsets":[0,%d]}}' % (num_rows, num_rows * 4096)
    with huge.open("wb") as file:  # sparse: no more than its header is ever on the disk
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + num_rows * 4096)
    with pytest.raises(ExportError, match=r"needs 50331648 MiB of memory.* and \d+ MiB are free"):
        made(tmp_path / "model", tmp_path / "out")
