"""What a conversion optimises for where weights can be held in more than one way."""

BYTES = "bytes"  # memory and speed
FIDELITY = "fidelity"  # the logits of float arithmetic
PREFILL = "prefill"  # long prompts
FLOAT = "float"  # float32 weights and arithmetic: a reference
GOALS = (BYTES, FIDELITY, PREFILL, FLOAT)
