"""The networks of `tools/accuracy_cases.py` that exist in torch, with what Torch-Pruning must be told."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models_zoo.builders.export import Axes, export
from models_zoo.builders.torchvision_shim import torchvision
from models_zoo.recipes.resnet_fashion import ResNet


@dataclass(frozen=True, eq=False)
class Module:
    """A network and how it is exported and pruned.

    Attributes:
        network: In evaluation mode.
        example: Inputs by name.
        axes: Dynamic dimensions of the inputs, for the exporter.
        output: Name of the output.
        fixed: Layers whose outputs stay as wide as they are.
        heads: Attention heads of a projection.
        finish: Tells the network its new sizes after layers were cut.
    """

    network: nn.Module
    example: dict[str, Tensor]
    axes: Axes
    output: str
    fixed: tuple[nn.Module, ...] = ()
    heads: Mapping[nn.Module, int] = field(default_factory=dict)
    finish: Callable[[nn.Module], None] = lambda network: None

    def to_onnx(self) -> onnx.ModelProto:
        """The network as it is now."""
        names = (self.output,)
        return export(self.network, self.example, axes=self.axes, output_names=names)


def resnet(path: Path) -> Module:
    """The ResNet of an exported file: batch norms, which the file has folded, add its biases."""
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    stages = {int(m[1]) for n in stored if (m := re.match(r"stages\.(\d+)\.conv1\.weight$", n))}
    widths = sorted({len(stored[f"stages.{i}.conv1.weight"]) for i in stages})
    network = ResNet((widths[0], widths[1], widths[2]), len(stages) // 3).eval()
    weights = dict(network.state_dict())
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            layer = re.sub(r"bn(\d)$", r"conv\1", re.sub(r"shortcut\.1$", "shortcut.0", name))
            weights[f"{name}.bias"] = _tensor(stored[f"{layer}.weight_bias"])
            weights[f"{name}.running_mean"] = torch.zeros(module.num_features)
            weights[f"{name}.running_var"] = torch.full((module.num_features,), 1 - module.eps)
    weights |= {n: _tensor(stored[n]) for n in weights if n in stored}
    network.load_state_dict(weights)
    example = {"pixels": torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))}
    return Module(network, example, {"pixels": {0: "batch"}}, "logits", (network.head,))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


class Embedder(nn.Module):
    """A BERT whose last hidden states are averaged over the tokens of each text."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        with contextlib.suppress(ImportError):  # transformers imports it, but does not need it
            torchvision()
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="eager", local_files_only=True
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`(n, tokens)` ids and mask, int64, to `(n, 384)`."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)


def minilm(folder: Path) -> Module:
    """all-MiniLM-L6-v2 from a folder with its weights."""
    network = Embedder(folder).eval()
    layers = network.bert.encoder.layer
    heads = network.bert.config.num_attention_heads
    attentions = [layer.attention.self for layer in layers]
    projections = [p for a in attentions for p in (a.query, a.key, a.value)]

    def finish(pruned: nn.Module) -> None:
        for layer in pruned.bert.encoder.layer:
            attention = layer.attention.self
            attention.attention_head_size = attention.query.out_features // heads
            attention.all_head_size = attention.query.out_features

    ids = torch.arange(1000, 1064).reshape(2, 32)
    axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
    return Module(
        network,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        axes,
        "sentence",
        tuple(p for layer in layers for p in (layer.attention.output.dense, layer.output.dense)),
        dict.fromkeys(projections, heads),
        finish,
    )
