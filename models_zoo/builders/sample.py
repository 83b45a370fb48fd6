"""What every family of torch architectures hands to the exporter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Sample:
    """A live module with inputs that it accepts.

    Attributes:
        module: In evaluation mode, with weights from `live.enliven`.
        inputs: Arguments of `forward` by name, which become the ONNX input names.
        axes: Dims that may be left open, `{input: {dim: name}}`.
        outputs: ONNX output names, or empty for the exporter's.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...] = ()
