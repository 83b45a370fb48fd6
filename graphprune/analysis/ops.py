"""What the analysis and the selection make of op names, those of ONNX and of ATen alike."""

from __future__ import annotations

SPATIAL = frozenset(
    (
        *("Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"),
        *("conv1d", "conv2d", "conv3d", "convolution"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    )
)
"""Convolutions: what leaves from them is called a channel, from other layers a neuron."""

CONTRACTIONS = SPATIAL - {"QLinearConv", "ConvInteger"} | frozenset(
    (
        *(
            "Gemm",
            "FusedGemm",
            "MatMul",
            "FusedMatMul",
            "Einsum",
            "LSTM",
            "GRU",
            "RNN",
            "Attention",
        ),
        *("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum"),
        *("lstm", "gru", "rnn_tanh", "rnn_relu"),
    )
)
"""Ops whose kernels work in blocks: their widths are aligned to a grid."""

TRUNK_NORMS = frozenset(
    (
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "ReduceMean"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
        "EmbedLayerNormalization",
        *("Mul", "Div"),  # of a ReduceSum: a mean written by hand
        *("layer_norm", "rms_norm", "mean", "native_layer_norm"),
    )
)
"""Statistics over the width of a residual stream make it a trunk, which is left unless asked for."""

BATCH_NORMS = frozenset(("BatchNormalization", "batch_norm"))
"""Ops whose second operand scales each channel."""
