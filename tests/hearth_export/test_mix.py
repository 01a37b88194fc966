"""Types of tensors, as llama.cpp's own quantizer chose them for files of the same shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearth_export.errors import UnsupportedModel
from hearth_export.mix import DEFAULTS, file_type, plan_types
from hearth_export.readers.gguf import open_gguf
from tests.hearth_export.gguf_writer import Meta, Tensor, write_gguf

NUM_LAYERS = 34
ALL = tuple(range(NUM_LAYERS))
MORE = (0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 29, 30, 31, 32, 33)
# kind of tensor -> file type -> the type that some layers get, where it is not the default
RAISED: dict[str, dict[str, tuple[tuple[str, tuple[int, ...]], ...]]] = {
    "attn_v": {
        "Q2_K": (("Q4_K", ALL),),
        "Q3_K_M": (("Q5_K", ALL[:2]), ("Q4_K", ALL[2:])),
        "Q3_K_L": (("Q5_K", ALL),),
        "Q4_K_S": (("Q5_K", ALL[:4]),),
        "Q4_K_M": (("Q6_K", MORE),),
        "Q5_K_M": (("Q6_K", MORE),),
    },
    "ffn_down": {
        "Q2_K": (("Q3_K", ALL),),
        "Q3_K_M": (("Q5_K", ALL[:2]), ("Q4_K", ALL[2:])),
        "Q3_K_L": (("Q5_K", ALL),),
        "Q4_K_S": (("Q5_K", ALL[:4]),),
        "Q4_K_M": (("Q6_K", MORE),),
        "Q5_K_M": (("Q6_K", MORE),),
    },
    "attn_output": {"Q2_K": (("Q3_K", ALL),), "Q3_K_M": (("Q4_K", ALL),), "Q3_K_L": (("Q5_K", ALL),)},
    "attn_q": {},
    "attn_k": {},
    "ffn_up": {},
    "ffn_gate": {},
}


def model(
    path: Path,
    *,
    num_layers: int = NUM_LAYERS,
    columns: int = 256,
    num_kv_heads: int = 2,
    untied: bool = True,
    value: str = "attn_v",
    more: tuple[Tensor, ...] = (),
) -> Path:
    metadata: dict[str, Meta] = {
        "general.architecture": "llama",
        "llama.block_count": num_layers,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": num_kv_heads,
    }
    names = [value if name == "attn_v" else name for name in RAISED]
    tensors = [Tensor(f"blk.{i}.{name}.weight", (2, columns), "F16") for i in range(num_layers) for name in names]
    tensors.append(Tensor("token_embd.weight", (2, columns), "F16"))
    if untied:
        tensors.append(Tensor("output.weight", (2, columns), "F16"))
    return write_gguf(path, metadata, [*tensors, *more])


def types(path: Path, target: str) -> dict[str, str]:
    with open_gguf(path) as gguf:
        return plan_types(gguf, target)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("mix") / "usual.gguf")


@pytest.mark.parametrize("target", DEFAULTS)
def test_layers_get_the_types_that_llama_cpp_gives_them(usual: Path, target: str) -> None:
    found = types(usual, target)
    for kind, raised in RAISED.items():
        expected = dict.fromkeys(ALL, DEFAULTS[target])
        for name, layers in raised.get(target, ()):
            expected |= dict.fromkeys(layers, name)
        assert {layer: found[f"blk.{layer}.{kind}.weight"] for layer in ALL} == expected, kind


@pytest.mark.parametrize("target", DEFAULTS)
def test_head_has_six_bits_or_more(usual: Path, target: str) -> None:
    found = types(usual, target)
    assert found["output.weight"] == (target if target in ("F32", "F16", "BF16", "Q8_0") else "Q6_K")
    assert found["token_embd.weight"] == DEFAULTS[target]


@pytest.mark.parametrize(
    ("target", "expected"), [("Q4_K_M", "Q6_K"), ("Q4_0", "Q6_K"), ("Q8_0", "Q8_0"), ("F16", "F16")]
)
def test_embedding_that_is_the_head_too_is_quantized_like_one(tmp_path: Path, target: str, expected: str) -> None:
    assert types(model(tmp_path / "m", untied=False, num_layers=1), target)["token_embd.weight"] == expected


@pytest.mark.parametrize(
    ("target", "expected", "head"),
    [
        ("Q2_K", "Q4_0", "Q8_0"),
        ("Q3_K_S", "Q4_0", "Q8_0"),
        ("Q4_K_S", "Q5_0", "Q8_0"),
        ("Q5_K_M", "Q5_1", "Q8_0"),
        ("Q6_K", "Q8_0", "Q8_0"),
        ("Q4_1", "Q4_1", "Q8_0"),
    ],
)
def test_rows_that_do_not_split_into_256_get_a_type_of_32(
    tmp_path: Path, target: str, expected: str, head: str
) -> None:
    found = types(model(tmp_path / "m", columns=96, num_layers=1), target)
    assert (found["blk.0.attn_q.weight"], found["output.weight"]) == (expected, head)


@pytest.mark.parametrize("target", ["Q4_K_M", "Q8_0", "Q5_1"])
def test_rows_that_do_not_split_into_32_stay_floats(tmp_path: Path, target: str) -> None:
    assert set(types(model(tmp_path / "m", columns=80, num_layers=1), target).values()) == {"F16"}


def test_values_need_few_bits_only_where_many_queries_share_them(tmp_path: Path) -> None:
    shared, own = (types(model(tmp_path / f"{n}", num_kv_heads=n, num_layers=1), "Q2_K") for n in (2, 8))
    assert (shared["blk.0.attn_v.weight"], own["blk.0.attn_v.weight"]) == ("Q4_K", "Q3_K")


def test_values_of_a_70b_model_have_five_bits(tmp_path: Path) -> None:
    source = model(tmp_path / "m", num_layers=80, num_kv_heads=1)
    assert {types(source, target)["blk.40.attn_v.weight"] for target in ("Q3_K_M", "Q4_K_S")} == {"Q5_K"}


@pytest.mark.parametrize("value", ["attn_qkv", "attn_kv_b"])
def test_matrix_that_holds_values_among_others_counts_as_values(tmp_path: Path, value: str) -> None:
    assert types(model(tmp_path / "m", value=value), "Q4_K_M")[f"blk.0.{value}.weight"] == "Q6_K"


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("blk.0.attn_norm.weight", (256,), "F32"),
        ("blk.0.attn_q.bias", (2, 256), "F32"),
        ("blk.0.ssm_conv1d.weight", (2, 256), "F32"),
        ("blk.0.attn_q_norm.weight", (2, 256), "BF16"),
        ("blk.0.ffn_gate_inp.weight", (2, 256), "F16"),
        ("token_types.weight", (2, 256), "F32"),
        ("tokens.weight", (2, 256), "I32"),
    ],
)
def test_small_and_sensitive_tensors_stay_as_they_are(
    tmp_path: Path, name: str, shape: tuple[int, ...], kind: str
) -> None:
    source = model(tmp_path / "m", num_layers=1, more=(Tensor(name, shape, kind),))
    assert types(source, "Q4_K_M")[name] == kind


@pytest.mark.parametrize("name", ["q4_k_m", "Q4_K_M", "q4_K_M"])
def test_case_of_a_file_type_does_not_matter(name: str) -> None:
    assert file_type(name) == "Q4_K_M"


@pytest.mark.parametrize("name", ["Q9_0", "", "Q4_K_M ", "iq4_nl", "Q4_K"])
def test_unknown_file_type_is_refused_with_the_list_of_those_that_are_known(name: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        file_type(name)
    assert str(caught.value) == (
        f"unsupported quantization type {name} - supported types are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
        "Q2_K, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K"
    )


def experts(path: Path, num_experts: int) -> Path:
    metadata: dict[str, Meta] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.expert_count": num_experts,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": 8,
    }
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (2, 256))
    shapes |= dict.fromkeys(("ffn_gate_exps", "ffn_down_exps"), (num_experts, 2, 256))
    shapes["ffn_gate_inp"] = (num_experts, 256)
    tensors = [Tensor(f"blk.0.{name}.weight", shape, "F16") for name, shape in shapes.items()]
    return write_gguf(path, metadata, [*tensors, Tensor("output.weight", (2, 256), "F16")])


@pytest.mark.parametrize(
    ("num_experts", "target", "expected"),
    [
        (8, "Q4_K_M", {"attn_v": "Q8_0", "attn_k": "Q8_0", "attn_output": "Q5_K", "attn_q": "Q4_K"}),
        (8, "Q3_K_L", {"attn_v": "Q8_0", "attn_k": "Q8_0", "attn_output": "Q3_K", "attn_q": "Q3_K"}),
        (8, "Q6_K", {"attn_v": "Q8_0", "attn_k": "Q8_0", "attn_output": "Q6_K"}),
        (4, "Q3_K_L", {"attn_v": "Q5_K", "attn_k": "Q3_K", "attn_output": "Q5_K"}),
        (4, "Q4_K_M", {"attn_k": "Q4_K", "attn_output": "Q4_K", "ffn_gate_exps": "Q4_K", "ffn_down_exps": "Q6_K"}),
        (8, "Q4_0", {"ffn_gate_exps": "Q4_0", "ffn_down_exps": "Q4_0", "ffn_gate_inp": "F16"}),
    ],
)
def test_attention_beside_eight_experts_has_more_bits_and_routers_stay(
    tmp_path: Path, num_experts: int, target: str, expected: dict[str, str]
) -> None:
    found = types(experts(tmp_path / "m", num_experts), target)
    assert {kind: found[f"blk.0.{kind}.weight"] for kind in expected} == expected
