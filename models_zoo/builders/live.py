"""Random weights that keep a network's signals alive.

A freshly initialised network is a poor test object: biases are zero and norms are one, so exporters
merge equal tensors; layer scales of 1e-6 switch branches off; signals die with depth, and then any
output is near zero and any comparison passes. `enliven` repairs this in one forward pass (after
LSUV, Mishkin and Matas, 2015): every layer's weights are scaled where the signal reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_Linear = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

#: Share of a channel's mean that is taken off.
CENTRING = 0.6
_RunningNorm = nn.modules.batchnorm._NormBase


def enliven(module: nn.Module, inputs: Mapping[str, Any], seed: int) -> nn.Module:
    """Randomise and rescale the weights of `module` in place; returns it in evaluation mode.

    Afterwards each convolution and dense layer answers `inputs` with a size of about one, norms
    have random statistics near those of their input, and no two parameters are equal.

    Args:
        module: Any module; shared parameters stay shared.
        inputs: Arguments of `forward` by name, a few samples of live data.
        seed: The same seed gives the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    module.eval()
    with torch.no_grad():
        for parameter in module.parameters():
            _randomise(parameter, generator)
        handles = [h for m in module.modules() for h in _hooks(m, generator)]
        try:
            module(**inputs)
        finally:
            for handle in handles:
                handle.remove()
    return module


def live_images(shape: tuple[int, ...], seed: int) -> Tensor:
    """Images `(n, c, h, w)` with coarse and fine structure, unlike each other in contrast.

    The first is white noise, which alone would not do: all samples look alike behind a pooling
    layer.
    """
    generator = torch.Generator().manual_seed(seed)
    n, c, _, _ = shape
    coarse = F.interpolate(_normal((n, c, 7, 7), generator), shape[2:], mode="bilinear")
    fine = 0.5 * _normal(shape, generator)
    share = torch.linspace(0, 1, n).view(n, 1, 1, 1)
    contrast = 0.5 + torch.rand((n, c, 1, 1), generator=generator)
    structured = contrast * (coarse + fine) + 0.5 * _normal((n, c, 1, 1), generator)
    return share * structured + (1 - share) * _normal(shape, generator)


def _randomise(parameter: Tensor, generator: torch.Generator) -> None:
    """Make a constant parameter random, and any other one unlike its twin in another layer."""
    if not parameter.is_floating_point() or parameter.numel() == 0:
        return
    flat = parameter.reshape(-1)
    if bool((flat == flat[0]).all()):
        if flat[0] == 0:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.copy_(0.6 + 0.8 * torch.rand(parameter.shape, generator=generator))
    else:
        parameter.mul_(0.9 + 0.2 * torch.rand(parameter.shape, generator=generator))


def _hooks(module: nn.Module, generator: torch.Generator) -> list[Any]:
    if isinstance(module, _RunningNorm) and module.running_var is not None:
        return [module.register_forward_pre_hook(_once(_statistics(generator)))]
    if isinstance(module, _Linear) or type(module).__name__ == "Conv1D":  # GPT-2's dense layer
        return [module.register_forward_hook(_once(_unit_output(generator)))]
    return []


def _once(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A module that is called several times is scaled by its first call."""
    seen = False

    def wrapped(*arguments: Any) -> Any:
        nonlocal seen
        if seen:
            return None
        seen = True
        return hook(*arguments)

    return wrapped


def _centre(x: Tensor, channel: int) -> tuple[Tensor, float]:
    """Most of the mean of each channel, and the size of what is left when it is subtracted.

    Fitting the mean and variance of each channel to a few samples would whiten just these: on any
    other input the rest would be amplified, a little in every layer and enormously in all of them.
    """
    mean = CENTRING * x.mean([d for d in range(x.ndim) if d != channel])
    shape = [-1 if d == channel else 1 for d in range(x.ndim)]
    return mean, float((x - mean.view(shape)).square().mean().sqrt())


def _statistics(generator: torch.Generator) -> Callable[..., None]:
    def hook(module: Any, arguments: tuple[Tensor, ...]) -> None:
        mean, size = _centre(arguments[0], 1)
        spread = size * (0.8 + 0.4 * torch.rand(mean.shape, generator=generator))
        module.running_mean.copy_(mean + 0.2 * size * _normal(mean.shape, generator))
        module.running_var.copy_(spread.square() + 1e-8)

    return hook


def _unit_output(generator: torch.Generator) -> Callable[..., Tensor | None]:
    def hook(module: Any, arguments: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        channel = 1 if isinstance(module, nn.modules.conv._ConvNd) else y.ndim - 1
        mean, size = _centre(y, channel)
        if not size > 1e-8:  # nothing arrived here
            return None
        if y.ndim > 2 and channel == 1 and y[0, 0].numel() == 1:
            size *= 3.0  # a squeeze-excite gate: gates that saturate amplify what is large anyway
        module.weight.div_(size)
        y = y / size
        if module.bias is not None:
            shift = 0.3 * _normal(mean.shape, generator) - mean / size
            module.bias.div_(size).add_(shift)
            y = y + shift.view([-1 if d == channel else 1 for d in range(y.ndim)])
        return y

    return hook


def _normal(shape: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)
