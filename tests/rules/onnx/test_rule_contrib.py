from __future__ import annotations

import pytest
from fused import attributes, found, model, reasons, shortened, weight

from graphprune.rules.registry import registry

MS = "com.microsoft"


def norm(op: str, groups: int, extra: str = "", more: dict | None = None, last: int = 1):
    """Channels last: dense, norm of groups, dense."""
    body = f"""
        h = MatMul (x, w)
        [norm] n = com.microsoft.{op} <groups={groups}, activation=0, channels_last={last}>
            (h, gamma, beta{extra})
        y = MatMul (n, v)
    """
    weights = {"w": (5, 12), "gamma": (12,), "beta": (12,), "v": (12, 2)} | (more or {})
    return model(body, weights, "float[N, 4, 4, 5] x", "float[N, 4, 4, 2] y")


def test_whole_groups_leave():
    proto = norm("GroupNorm", 4)
    assert [size for _, size in found(proto)] == [4]
    pruned = shortened(proto)
    assert attributes(pruned, "GroupNorm")["groups"] == 3
    assert weight(pruned, "GroupNorm", 1).shape == (9,)


def test_channels_inside_a_group_stay():
    proto = norm("GroupNorm", 4)
    assert found(proto, blocks=False) == []
    assert "the statistics of a group run over it" in reasons(proto, "norm", blocks=False)


def test_a_single_group_stays():
    assert found(norm("GroupNorm", 1)) == []


def test_a_skip_joins_two_widths():
    body = """
        h = MatMul (x, w)
        s = MatMul (x, u)
        [norm] n, sum = com.microsoft.SkipGroupNorm <groups=4, activation=0>
            (h, gamma, beta, s, bias)
        t = Add (n, sum)
        y = MatMul (t, v)
    """
    weights = {"w": (5, 12), "u": (5, 12), "v": (12, 2)}
    weights |= dict.fromkeys(("gamma", "beta", "bias"), (12,))
    proto = model(body, weights, "float[N, 4, 4, 5] x", "float[N, 4, 4, 2] y")
    assert found(proto) == [("residual", 4)]
    assert weight(shortened(proto), "SkipGroupNorm", 4).shape == (9,)


def test_both_halves_of_a_gate_lose_the_same():
    body = """
        h = MatMul (x, w)
        g = com.microsoft.BiasSplitGelu (h, bias)
        y = MatMul (g, v)
    """
    proto = model(
        body, {"w": (5, 14), "bias": (14,), "v": (7, 2)}, "float[N, S, 5] x", "float[N, S, 2] y"
    )
    assert [size for _, size in found(proto)] == [7]
    pruned = shortened(proto)
    assert weight(pruned, "BiasSplitGelu", 1).shape == (12,)


def test_the_width_of_a_fused_embedding_stays():
    body = """
        [embed] h, mask = com.microsoft.EmbedLayerNormalization
            (ids, , words, places, , gamma, beta)
        f = MatMul (h, w)
        g = Relu (f)
        y = MatMul (g, v)
    """
    weights = {"words": (11, 6), "places": (9, 6), "gamma": (6,), "beta": (6,)}
    weights |= {"w": (6, 8), "v": (8, 2)}
    proto = model(body, weights, "int32[N, S] ids", "float[N, S, 2] y")
    assert [size for _, size in found(proto)] == [8]
    assert reasons(proto, "embed") == {"it is normalised inside the op that looks it up"}


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("NhwcConv", "its layout was made for one runtime: prune the model before it is optimised"),
        ("QMoE", "the experts inside the op are not looked into"),
        ("DynamicQuantizeLSTM", "its quantised gates are packed for onnxruntime's kernel"),
        ("PackedAttention", "its tokens are packed without padding"),
        ("DecoderMaskedMultiHeadAttention", "its past and present share one buffer of fixed size"),
    ],
)
def test_boundaries_say_why(op, reason):
    body = f"""
        h = MatMul (x, w)
        [fused] y = com.microsoft.{op} (h, v)
    """
    proto = model(body, {"w": (5, 6), "v": (6, 6)}, "float[N, S, 5] x", "float[N, S, 6] y")
    assert found(proto) == []
    assert reasons(proto, "fused") == {reason}
    rule = registry.find(MS, op, 1)
    assert rule is not None
    assert rule.boundary == reason
