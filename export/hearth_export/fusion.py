"""An encoder's graph from Optimum with its small nodes joined to those that ONNX Runtime has kernels for."""

from __future__ import annotations

from pathlib import Path

import onnx


def fused_encoder(graph: Path, num_heads: int, hidden_size: int) -> onnx.ModelProto:
    """The graph with Attention, LayerNormalization and Gelu as single nodes, as far as they are recognised.

    Matrices stay apart, so that they can be quantized; norms and sums too, which a CPU computes faster like that.
    """
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False
    options.enable_skip_layer_norm = options.enable_bias_skip_layer_norm = False
    options.use_multi_head_attention = True
    found = optimizer.optimize_model(
        str(graph), model_type="bert", num_heads=num_heads, hidden_size=hidden_size, optimization_options=options,
        opt_level=0,
    )  # fmt: skip
    model: onnx.ModelProto = found.model
    return model
