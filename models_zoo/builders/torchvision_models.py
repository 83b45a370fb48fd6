"""Every torchvision architecture for classification and segmentation, with live random weights."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from models_zoo.builders.live import enliven, live_images
from models_zoo.builders.sample import Sample
from models_zoo.builders.torchvision_shim import torchvision

#: Above this many parameters a network is built with fewer of its identical blocks.
LARGEST = 150_000_000

#: Architectures are built for this image size (the vision transformers allow no other),
SIZE = 224
#: but for those whose auxiliary heads, which train mode runs, take no smaller one than their own.
SIZES = {"inception_v3": 299}


def classification() -> list[str]:
    """The names of torchvision's classification architectures."""
    models = torchvision().models
    return list(models.list_models(module=models))


def segmentation() -> list[str]:
    """The names of torchvision's segmentation architectures."""
    models = torchvision().models
    return list(models.list_models(module=models.segmentation))


class Segmenter(nn.Module):
    """torchvision's segmentation models return a dict; ONNX wants tensors."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image)["out"]


class Classifier(nn.Module):
    """Gives the input one name, whatever the architecture calls it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image)


def sample(name: str, *, seed: int = 0) -> Sample:
    """Build `name` at its own width, `(batch, 3, size, size)` -> logits.

    Networks of more than `LARGEST` parameters keep two of each run of identical blocks. Raises
    ValueError for an unknown name.
    """
    models = torchvision().models
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slow default initialisation, of no interest here
        if name in segmentation():
            inner = models.get_model(name, weights=None, weights_backbone=None)
            module: nn.Module = Segmenter(inner)
        else:
            module = Classifier(models.get_model(name, weights=None))
    if sum(p.numel() for p in module.parameters()) > LARGEST:
        shorten(module, keep=2)
    size = SIZES.get(name, SIZE)
    image = live_images((8, 3, size, size), seed + 1)
    enliven(module, {"image": image}, seed)
    return Sample(module, {"image": image[:2]}, {"image": {0: "batch"}}, ("logits",))


def shorten(module: nn.Module, keep: int) -> None:
    """In every Sequential, drop all but the first `keep` of a run of children with equal shapes."""
    for sequence in [m for m in module.modules() if isinstance(m, nn.Sequential)]:
        length, previous, surplus = 0, None, []
        for index, child in enumerate(sequence):
            kind = (type(child), [p.shape for p in child.parameters()])
            length = length + 1 if kind == previous and kind[1] else 1
            previous = kind
            if length > keep:
                surplus.append(index)
        for index in reversed(surplus):
            del sequence[index]
