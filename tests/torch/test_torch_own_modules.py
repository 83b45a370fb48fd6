from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from graphprune.torch.modules import MultiheadAttention  # noqa: E402

HEADS, DIM, WIDTH = 3, 4, 12


def both(**options: Any) -> tuple[nn.MultiheadAttention, MultiheadAttention]:
    """torch's attention, and the same weights in the general one."""
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(WIDTH, HEADS, **options).double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    made = copy.deepcopy(plain)
    return plain, MultiheadAttention.from_sliced(made, HEADS, DIM, DIM, DIM**-0.5)


def tensors(batch_first: bool, *lengths: int, sizes: tuple[int, ...] = (WIDTH,) * 3) -> list[Any]:
    found = []
    for length, size in zip(lengths, sizes, strict=True):
        x = torch.randn(2, length, size, dtype=torch.float64)
        found.append(x if batch_first else x.transpose(0, 1))
    return found


MASKS = {
    "none": {},
    "bool": {"attn_mask": torch.tensor([[False, True, False, False, True]]).expand(4, 5)},
    "float": {"attn_mask": torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)},
    "each head": {"attn_mask": torch.randn(2 * HEADS, 4, 5, dtype=torch.float64)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 5, [False, False, False, True, True]])},
}
MASKS["both"] = {**MASKS["bool"], **MASKS["padding"]}
LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "own key sizes": {"kdim": 5, "vdim": 7},
    "extra keys": {"add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("weights", [None, "mean", "each"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_equal_to_torch(layer: str, mask: str, weights: str | None) -> None:
    options = LAYERS[layer]
    plain, made = both(**options)
    sizes = (WIDTH, options.get("kdim", WIDTH), options.get("vdim", WIDTH))
    q, k, v = tensors(options.get("batch_first", False), 4, 5, 5, sizes=sizes)
    call = {**MASKS[mask], "need_weights": weights is not None}
    call["average_attn_weights"] = weights == "mean"
    expected, scores = plain(q, k, v, **call)
    found, mine = made(q, k, v, **call)
    torch.testing.assert_close(found, expected)
    assert (mine is None) == (scores is None)
    if scores is not None:
        torch.testing.assert_close(mine, scores)


def test_one_example_without_a_batch_axis() -> None:
    plain, made = both()
    q, k, v = (t[:, 0] for t in tensors(False, 4, 5, 5))
    for expected, found in zip(plain(q, k, v), made(q, k, v), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("need_weights", [False, True])
def test_causal(need_weights: bool) -> None:
    plain, made = both(batch_first=True)
    (x,) = tensors(True, 6, sizes=(WIDTH,))
    mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    call = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    torch.testing.assert_close(made(x, x, x, **call)[0], plain(x, x, x, **call)[0])
    with pytest.raises(RuntimeError, match="attn_mask"):
        made(x, x, x, is_causal=True)


def test_queries_and_values_of_other_sizes() -> None:
    """One head of 2 query and 3 value dimensions, against the formula."""
    plain, _ = both(batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight = nn.Parameter(torch.randn(7, WIDTH, dtype=torch.float64))
        plain.in_proj_bias = nn.Parameter(torch.randn(7, dtype=torch.float64))
        plain.out_proj.weight = nn.Parameter(torch.randn(WIDTH, 3, dtype=torch.float64))
    made = MultiheadAttention.from_sliced(plain, 1, 2, 3, 0.3)
    (x,) = tensors(True, 4, sizes=(WIDTH,))
    q, k, v = (x @ made.in_proj_weight.T + made.in_proj_bias).split([2, 2, 3], -1)
    expected = made.out_proj((0.3 * q @ k.transpose(1, 2)).softmax(-1) @ v)
    for need_weights in (False, True):
        torch.testing.assert_close(made(x, x, x, need_weights=need_weights)[0], expected)


def test_it_drops_out_only_in_training() -> None:
    _, made = both(dropout=0.5, batch_first=True)
    (x,) = tensors(True, 6, sizes=(WIDTH,))
    torch.testing.assert_close(made(x, x, x)[0], made(x, x, x)[0])
    made.train()
    for need_weights in (False, True):
        one, two = (made(x, x, x, need_weights=need_weights)[0] for _ in range(2))
        assert not torch.allclose(one, two)


def test_it_copies_pickles_and_keeps_its_keys() -> None:
    plain, made = both()
    assert list(plain.state_dict()) == list(made.state_dict())
    (x,) = tensors(False, 4, sizes=(WIDTH,))
    expected = made(x, x, x)[0]
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(again) is MultiheadAttention
        torch.testing.assert_close(again(x, x, x)[0], expected)


def test_a_subclass_is_not_overwritten() -> None:
    class Mine(nn.MultiheadAttention):
        pass

    with pytest.raises(TypeError, match="Mine is no plain"):
        MultiheadAttention.from_sliced(Mine(WIDTH, HEADS), HEADS, DIM, DIM, 1.0)
