"""Forty architectures of timm, each of another family, with live random weights.

The smallest member of each family; images are small where the architecture allows it.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from models_zoo.builders.live import enliven, live_images
from models_zoo.builders.sample import Sample
from models_zoo.builders.torchvision_shim import torchvision

NAMES: tuple[str, ...] = (
    *("beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coat_lite_tiny"),
    *("coatnet_nano_rw_224", "convit_tiny", "convmixer_768_32", "convnextv2_atto"),
    *("crossvit_tiny_240", "cspresnet50", "davit_tiny", "deit_tiny_distilled_patch16_224"),
    *("dla34", "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientvit_b0"),
    *("eva02_tiny_patch14_224", "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnet_050"),
    *("hardcorenas_a", "hgnetv2_b0", "hrnet_w18_small", "inception_next_atto", "levit_128s"),
    *("mambaout_femto", "mixer_s32_224", "mobilevit_xxs", "nf_regnet_b0", "pit_ti_224"),
    *("poolformer_s12", "pvt_v2_b0", "repvit_m0_9", "res2net50_14w_8s", "resnest14d"),
    *("rexnet_100", "skresnet18", "vovnet39a", "xcit_nano_12_p16_224", "twins_svt_small"),
)

#: Image sizes other than `SIZE`, of architectures that are bound to one.
_SIZES = {
    **{"botnet26t_256": 256, "crossvit_tiny_240": 240, "mobilevit_xxs": 128},
    **{"cspresnet50": 128, "dla34": 128, "dpn48b": 128, "ghostnet_050": 128, "hgnetv2_b0": 128},
    **{"hardcorenas_a": 128, "hrnet_w18_small": 128, "nf_regnet_b0": 128, "convmixer_768_32": 112},
    **{"res2net50_14w_8s": 128, "resnest14d": 128, "rexnet_100": 128, "skresnet18": 128},
    **{"vovnet39a": 128, "poolformer_s12": 128, "fastvit_t8": 128, "mambaout_femto": 128},
}
SIZE = 224


class TimmClassifier(nn.Module):
    """Gives the input one name, whatever the architecture calls it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image)


def sample(name: str, *, seed: int = 0) -> Sample:
    """Build `name` at its own width, `(batch, 3, size, size)` -> logits.

    Raises RuntimeError for an unknown name.
    """
    torchvision()  # timm imports it
    import timm

    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = TimmClassifier(timm.create_model(name, pretrained=False))
    size = _SIZES.get(name, SIZE)
    image = live_images((4, 3, size, size), seed + 1)
    enliven(module, {"image": image}, seed)
    return Sample(module, {"image": image[:2]}, {"image": {0: "batch"}}, ("logits",))
