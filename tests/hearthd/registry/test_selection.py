from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hearthd.errors import TransferFailed
from hearthd.registry.selection import BUILT, choose, needs_config
from hearthd.transfer.messages import Listed

ABOUT = ("config.json", "tokenizer.json", "tokenizer_config.json")
WHERE = "hf.co/a/b"


def listed(*names: str) -> list[Listed]:
    """Files of these names."""
    return [Listed(name=name, size=10, blob_id="0" * 40) for name in names]


def chosen(*names: str, model_type: str = "", is_decoder: bool = True) -> list[str]:
    """Names in the checkpoint of the files that are taken, without those of ABOUT."""
    files = choose(listed(*ABOUT, *names), WHERE, model_type=model_type, is_decoder=is_decoder).files
    return sorted(set(files) - set(ABOUT))


def refusal(*names: str) -> str:
    """Why nothing is taken."""
    with pytest.raises(TransferFailed) as caught:
        choose(listed(*names), WHERE)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (
            ["model.safetensors", "model-00001-of-00001.safetensors", "model.safetensors.index.json"],
            ["model.safetensors"],
        ),
        (["model.safetensors", "consolidated.safetensors", "original/consolidated.00.pth"], ["model.safetensors"]),
        (["model.safetensors", "adapter_model.safetensors", "rust_model.ot", "tf_model.h5"], ["model.safetensors"]),
        (["weights.safetensors"], ["weights.safetensors"]),
        (["model.safetensors", "README.md", "image.png", "unet/model.safetensors", ".gitattributes"],
         ["model.safetensors"]),
        (
            ["model.safetensors", "modules.json", "1_Pooling/config.json", "2_Normalize/config.json", "x/config.json"],
            ["1_Pooling/config.json", "2_Normalize/config.json", "model.safetensors", "modules.json"],
        ),
        (["model.safetensors", "chat_template.jinja", "generation_config.json", "vocab.txt", "evil.py"],
         ["chat_template.jinja", "generation_config.json", "model.safetensors", "vocab.txt"]),
    ],
)  # fmt: skip
def test_safetensors_and_what_describes_them_are_taken(names: list[str], taken: list[str]) -> None:
    assert chosen(*names) == taken


GRAPHS = ("onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data",
          "onnx/model_quantized.onnx", "onnx/model_bnb4.onnx")  # fmt: skip


def test_of_ready_graphs_the_one_for_the_device_is_taken_with_its_data() -> None:
    assert chosen(*GRAPHS) == ["onnx/model_q4.onnx", "onnx/model_q4.onnx_data"]
    assert chosen(*GRAPHS, is_decoder=False) == ["onnx/model_quantized.onnx"]
    assert chosen("onnx/model_fp16.onnx", "onnx/model_fp16.onnx_data_1") == [
        "onnx/model_fp16.onnx", "onnx/model_fp16.onnx_data_1"
    ]  # fmt: skip
    assert chosen("model.onnx", "model.onnx.data") == ["model.onnx", "model.onnx.data"]


def test_safetensors_of_a_known_kind_go_before_ready_graphs_and_others_behind() -> None:
    both = ("model.safetensors", "onnx/model_q4.onnx")
    assert chosen(*both, model_type="llama") == ["model.safetensors"]
    assert chosen(*both, model_type="lfm2") == ["onnx/model_q4.onnx"]
    assert chosen("model.safetensors", model_type="lfm2") == ["model.safetensors"]


def test_known_kinds_are_those_of_the_converter() -> None:
    program = "import json; from hearth_export.translation import MODEL_TYPES; print(json.dumps(sorted(MODEL_TYPES)))"
    known = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert sorted(BUILT) == known


def test_the_configuration_is_wanted_first_where_graphs_leave_a_choice() -> None:
    assert needs_config(listed(*ABOUT, "model.safetensors")) is None
    found = needs_config(listed(*ABOUT, "model.safetensors", "onnx/model.onnx"))
    assert found is not None
    assert found.name == "config.json"


def test_a_folder_of_onnxruntime_genai_is_taken_whole_and_without_its_path() -> None:
    cpu, gpu = "cpu_and_mobile/cpu-int4-rtn-block-32", "cuda/cuda-int4-rtn-block-32"
    names = [f"{folder}/{name}" for folder in (cpu, gpu) for name in ("genai_config.json", "model.onnx",
             "model.onnx.data", "tokenizer.json", "notes.md")]  # fmt: skip
    files = choose(listed("config.json", *names), WHERE).files
    assert sorted(files) == ["genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
    assert all(file.name.startswith(cpu) for file in files.values())


def test_onnx_for_other_devices_only_is_refused_naming_them() -> None:
    said = refusal("config.json", "cuda/cuda-int4/genai_config.json", "cuda/cuda-int4/model.onnx")
    assert "for other devices only: cuda/cuda-int4/" in said


def test_a_license_is_taken_beside_the_checkpoint() -> None:
    selection = choose(listed("config.json", "model.safetensors", "LICENSE.txt"), WHERE)
    assert selection.license is not None
    assert selection.license.name == "LICENSE.txt"
    assert "LICENSE.txt" not in selection.files


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["config.json", "pytorch_model.bin"], "pickled Python (pytorch_model.bin), which can run anything"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter; make a model of it by a Modelfile"),
        (["tiny-Q4_K_M.gguf", "config.json"], "name one of their quantizations as the tag"),
        (["README.md"], "holds no model: none of its 1 files"),
        (["model.safetensors"], "has no config.json"),
        (["config.json", "onnx/encoder_model.onnx", "onnx/decoder_model_merged.onnx"], "is an encoder-decoder"),
        (["config.json", "model-00001-of-00002.safetensors"], "holds no model"),
    ],
)
def test_what_is_no_model_is_told_in_one_sentence(names: list[str], says: str) -> None:
    said = refusal(*names)
    assert said.startswith(WHERE)
    assert says in said
