from __future__ import annotations

from typing import Any

import pytest

from hearthd.errors import BadRequest
from hearthd.registry.image import check_info, image_config, with_info
from hearthd.store.manifest import ImageConfig
from hearthd.store.variant import SourceInfo

SOURCE = SourceInfo(
    architecture="llama",
    file_type="Q4_1",
    parameter_count=134_515_008,
    context_length=2048,
    embedding_length=576,
    chat_template="{% if tools %}{% endif %}",
    metadata={},
    tensors=[],
)


def test_config_says_what_the_checkpoint_says() -> None:
    assert image_config(SOURCE) == ImageConfig(
        model_format="gguf",
        model_family="llama",
        model_families=("llama",),
        model_type="134.52M",
        file_type="Q4_1",
        architecture="amd64",
        os="linux",
        context_length=2048,
        embedding_length=576,
        capabilities=("completion", "tools"),
    )


def test_info_sets_the_fields_that_it_names() -> None:
    info: dict[str, Any] = {
        "capabilities": ["completion", "vision"],
        "model_family": "mine",
        "base_name": "base",
        "quantization_level": "Q9",
        "parameter_size": "9B",
        "context_length": 9.0,
        "embedding_length": 0,
        "else": object(),
    }
    config = with_info(image_config(SOURCE), check_info(info))
    assert (config.capabilities, config.base_name) == (("completion", "vision"), "base")
    assert (config.model_family, config.model_families) == ("mine", ("mine",))
    assert (config.file_type, config.model_type) == ("Q9", "9B")
    assert (config.context_length, config.embedding_length) == (9, 0)
    assert with_info(config, {}) == config


def test_empty_family_empties_the_families() -> None:
    assert check_info({"model_family": ""})["model_families"] == ()


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({"model_family": 1}, 'info field "model_family" must be a string'),
        ({"parameter_size": None}, 'info field "parameter_size" must be a string'),
        ({"context_length": "9"}, 'info field "context_length" must be a number'),
        ({"context_length": True}, 'info field "context_length" must be a number'),
        ({"context_length": -1}, 'info field "context_length" must be a non-negative integer'),
        ({"context_length": 1.5}, 'info field "context_length" must be a non-negative integer'),
        ({"embedding_length": 1e300}, 'info field "embedding_length" must be a non-negative integer'),
        ({"capabilities": "completion"}, 'info field "capabilities" must be an array of strings'),
        ({"capabilities": ["completion", 1]}, 'info field "capabilities" element 1 must be a string'),
    ],
)
def test_info_of_a_wrong_type_is_refused_naming_the_field(info: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_info(info)
    assert str(caught.value) == sentence
