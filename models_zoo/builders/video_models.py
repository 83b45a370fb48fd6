"""torchvision's video classifiers, with live random weights, on short clips of small frames."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from models_zoo.builders.live import enliven, live_images
from models_zoo.builders.sample import Sample
from models_zoo.builders.torchvision_models import LARGEST, shorten
from models_zoo.builders.torchvision_shim import torchvision

#: One of each architecture.
NAMES: tuple[str, ...] = (
    *("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t"),
)

#: (frames, height and width); the transformers of the MViT family allow no other size.
_CLIPS = {"s3d": (16, 224), "mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "swin3d_t": (8, 112)}
_CLIP = (8, 64)


class VideoClassifier(nn.Module):
    """Gives the input one name, whatever the architecture calls it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, clip: Tensor) -> Tensor:
        return self.inner(clip)


def sample(name: str, *, seed: int = 0) -> Sample:
    """Build `name` at its own width, `(batch, 3, frames, height, width)` -> logits.

    Raises ValueError for an unknown name.
    """
    video = torchvision().models.video
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = VideoClassifier(torchvision().models.get_model(name, weights=None))
    assert name in torchvision().models.list_models(module=video)
    if sum(p.numel() for p in module.parameters()) > LARGEST:
        shorten(module, keep=2)
    frames, size = _CLIPS.get(name, _CLIP)
    clip = live_clips((2, 3, frames, size, size), seed + 1)
    enliven(module, {"clip": clip}, seed)
    return Sample(module, {"clip": clip[:2]}, {"clip": {0: "batch"}}, ("logits",))


def live_clips(shape: tuple[int, int, int, int, int], seed: int) -> Tensor:
    """Clips whose frames change gradually from one picture to another."""
    n, channels, frames, height, width = shape
    first, last = (live_images((n, channels, height, width), seed + k) for k in (0, 100))
    share = torch.linspace(0, 1, frames).view(1, 1, frames, 1, 1)
    return (1 - share) * first.unsqueeze(2) + share * last.unsqueeze(2)
