"""Import torchvision beside a CPU build of torch, for which it has no matching C extension.

torchvision's Python registers fake kernels for operators that its C extension would define, and
fails without them. Defining their signatures first is enough for models that never call them, which
is all of classification and segmentation.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

_SIGNATURES = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

#: Keeps the library alive: its operators vanish with it.
_library: object | None = None


def _extension_loads(package: Path) -> bool:
    import torch

    for path in sorted(package.glob("_C*.so")) + sorted(package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(path)
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


def torchvision() -> ModuleType:
    """The torchvision package, its missing operators declared if its extension does not load.

    Call this before anything else imports torchvision (transformers does). Raises ImportError where
    torch or torchvision is not installed.
    """
    global _library
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed: pip install --no-deps torchvision")
    if _library is None and not _extension_loads(Path(spec.origin).parent):
        library = torch.library.Library("torchvision", "DEF")
        for signature in _SIGNATURES:
            library.define(signature)
        _library = library
    return importlib.import_module("torchvision")
