"""The backbones of torchvision's detection models, with live random weights.

Detection models as a whole decide by the contents of tensors what they compute and so have no
graph; nearly all of their weights and work are in `.backbone`, which maps images to feature maps.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from models_zoo.builders.live import enliven, live_images
from models_zoo.builders.sample import Sample
from models_zoo.builders.torchvision_shim import torchvision

SIZE = 224


def names() -> list[str]:
    """The names of torchvision's detection architectures."""
    models = torchvision().models
    return list(models.list_models(module=models.detection))


class Backbone(nn.Module):
    """Feature maps as a tuple, in their order."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.inner(image).values())


def sample(name: str, *, seed: int = 0) -> Sample:
    """The backbone of `name`, `(batch, 3, size, size)` -> feature maps; size 224 where it is not fixed.

    Raises ValueError for an unknown name.
    """
    models = torchvision().models
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = models.get_model(name, weights=None, weights_backbone=None)
    module = Backbone(whole.backbone)
    fixed = whole.transform.fixed_size
    size = fixed[0] if fixed else SIZE
    image = live_images((4, 3, size, size), seed + 1)
    enliven(module, {"image": image}, seed)
    return Sample(module, {"image": image[:2]}, {"image": {0: "batch"}})
