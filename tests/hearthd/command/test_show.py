from __future__ import annotations

from hearthd.command.replies import Details, Shown, Tensor
from hearthd.command.show import overview

SHOWN = Shown(
    details=Details(family="llama", parameter_size="7B", quantization_level="Q4_0"),
    model_info={
        "general.architecture": "llama",
        "general.parameter_count": 7_000_000_000,
        "llama.context_length": 1000,
        "llama.embedding_length": 11434,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.scores": [1, 22, 333, 4444, 55555],
        "tokenizer.ggml.tokens": None,
    },
    capabilities=["completion", "vision"],
    projector_info={"general.architecture": "clip", "general.parameter_count": 133_700_000,
                    "clip.vision.embedding_length": 768, "clip.vision.projection_dim": 512},
    parameters='stop                           "a b"\ntemperature                    0.5\n',
    tensors=[Tensor(name="token_embd.weight", type="Q4_0", shape=[32, 64])],
    system="Be brief.\n\nBe kind.\nBe quiet.",
    license="MIT\n",
    requires="0.14.0",
)  # fmt: skip

WHOLE = """\
  Model
    architecture        llama     
    parameters          7B        
    context length      1000      
    embedding length    11434     
    quantization        Q4_0      
    requires            0.14.0    

  Capabilities
    completion    
    vision        

  Projector
    architecture        clip       
    parameters          133.70M    
    embedding length    768        
    dimensions          512        

  Parameters
    stop           "a b"    
    temperature    0.5      

  System
    Be brief.    
    Be kind.     
    ...          

  License
    MIT    

"""  # noqa: W291


def test_overview_has_a_section_for_all_that_is_known() -> None:
    assert overview(SHOWN) == WHOLE


def test_what_is_not_known_has_no_section() -> None:
    bare = Shown(details=Details(family="bert"))
    assert overview(bare) == "  Model\n    architecture    bert       \n    quantization    unknown    \n\n"


def test_verbose_overview_has_metadata_and_tensors() -> None:
    lines = [line.split(None, 1) for line in overview(SHOWN, verbose=True).splitlines()]
    values = {line[0]: line[1].rstrip() for line in lines if len(line) > 1}
    assert values["llama.rope.freq_base"] == "10000.0"
    assert values["general.parameter_count"] == "7000000000"
    assert values["tokenizer.ggml.add_bos_token"] == "true"
    assert values["tokenizer.ggml.scores"] == "[1 22 333 ...+2 more]"
    assert values["tokenizer.ggml.tokens"] == "(long)"
    assert values["token_embd.weight"].split(None, 1) == ["Q4_0", "[32 64]"]
