"""Transformer-family architectures of Hugging Face transformers, from configurations alone.

Depth and width are reduced so that a file stays small, but each keeps what makes it special:
several heads, grouped key and value heads, rotary positions, tied embeddings, shifted windows, a
convolutional front end, a selective scan.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models_zoo.builders.live import enliven, live_images
from models_zoo.builders.sample import Sample
from models_zoo.builders.torchvision_shim import torchvision

VOCABULARY = 512


class TextModel(nn.Module):
    """`(batch, sequence)` token ids and mask in, the named outputs out."""

    def __init__(self, inner: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        result = self.inner(input_ids=input_ids, attention_mask=attention_mask)
        return tuple(result[name] for name in self.outputs)


class MaskedCausalModel(nn.Module):
    """`(batch, sequence)` token ids and mask in, next-token logits out; no cache."""

    def __init__(self, inner: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        result = self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return tuple(result[name] for name in self.outputs)


class CausalModel(nn.Module):
    """The same without a mask: transformers then looks for packed sequences in the graph."""

    def __init__(self, inner: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        result = self.inner(input_ids=input_ids, use_cache=False)
        return tuple(result[name] for name in self.outputs)


class Seq2SeqModel(nn.Module):
    """Source and target token ids in, logits of the decoder out; no cache."""

    def __init__(self, inner: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> tuple[Tensor, ...]:
        result = self.inner(
            input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return tuple(result[name] for name in self.outputs)


class SignalModel(nn.Module):
    """One image or audio tensor in, the named outputs out."""

    def __init__(self, inner: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(self, signal: Tensor) -> tuple[Tensor, ...]:
        result = self.inner(signal)
        return tuple(result[name] for name in self.outputs)


class TwoTowers(nn.Module):
    """An image and token ids in, both embeddings out."""

    def __init__(self, inner: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.inner, self.outputs = inner, outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, image: Tensor
    ) -> tuple[Tensor, ...]:
        result = self.inner(input_ids=input_ids, attention_mask=attention_mask, pixel_values=image)
        return tuple(result[name] for name in self.outputs)


@dataclass(frozen=True)
class _Spec:
    """`make(transformers)` builds the model; `wrap` fixes its signature."""

    make: Callable[[ModuleType], nn.Module]
    wrap: type[nn.Module]
    outputs: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, Mapping[int, str]]


_TOKENS = {"input_ids": (4, 16)}
_TOKEN_AXES = {"input_ids": {0: "batch", 1: "sequence"}}
_TEXT = {"input_ids": (4, 16), "attention_mask": (4, 16)}
_TEXT_AXES = {
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
}
_TEXT_SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
}
_LLM_SIZE = _TEXT_SIZE | {
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 320,
}
_VISION_SIZE = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": 96,
    "patch_size": 16,
    "num_labels": 50,
}


def _model(kind: str, config: str, **options: Any) -> Callable[[ModuleType], nn.Module]:
    return lambda hf: getattr(hf, kind)(getattr(hf, config)(**options))


def _text(kind: str, config: str, *outputs: str, **options: Any) -> _Spec:
    return _Spec(_model(kind, config, **options), TextModel, outputs, _TEXT, _TEXT_AXES)


def _causal(kind: str, config: str, **options: Any) -> _Spec:
    make = _model(kind, config, **options)
    return _Spec(make, MaskedCausalModel, ("logits",), _TEXT, _TEXT_AXES)


def _signal(kind: str, config: str, output: str, shape: tuple[int, ...], **options: Any) -> _Spec:
    make = _model(kind, config, **options)
    return _Spec(make, SignalModel, (output,), {"signal": shape}, {"signal": {0: "batch"}})


def _whisper_encoder(hf: ModuleType) -> nn.Module:
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=128,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_layers=1,
        decoder_attention_heads=4,
        max_source_positions=100,
        num_mel_bins=80,
        pad_token_id=0,
    )
    return hf.WhisperModel(config).encoder


def _clip(hf: ModuleType) -> nn.Module:
    text = {k: v for k, v in _TEXT_SIZE.items() if k != "num_hidden_layers"}
    vision = {k: v for k, v in _VISION_SIZE.items() if k != "num_labels"}
    config = hf.CLIPConfig(
        text_config=text | {"num_hidden_layers": 2, "eos_token_id": 99, "bos_token_id": 98},
        vision_config=vision,
        projection_dim=96,
    )
    return hf.CLIPModel(config)


_SPECS: dict[str, _Spec] = {
    "bert": _text("BertModel", "BertConfig", "last_hidden_state", "pooler_output", **_TEXT_SIZE),
    "distilbert": _text(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        "logits",
        vocab_size=VOCABULARY,
        dim=128,
        n_layers=3,
        n_heads=4,
        hidden_dim=512,
        max_position_embeddings=128,
        num_labels=20,
    ),
    "roberta": _text("RobertaForMaskedLM", "RobertaConfig", "logits", **_TEXT_SIZE),
    "gpt2": _causal(
        "GPT2LMHeadModel",
        "GPT2Config",
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=128,
        n_layer=3,
        n_head=4,
    ),
    "llama": _causal("LlamaForCausalLM", "LlamaConfig", **_LLM_SIZE),
    "qwen2": _causal("Qwen2ForCausalLM", "Qwen2Config", **_LLM_SIZE),
    "qwen3": _causal("Qwen3ForCausalLM", "Qwen3Config", head_dim=32, **_LLM_SIZE),
    "mistral": _Spec(
        _model("MistralForCausalLM", "MistralConfig", sliding_window=8, **_LLM_SIZE),
        CausalModel,
        ("logits",),
        _TOKENS,
        _TOKEN_AXES,
    ),
    "t5": _Spec(
        _model(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=VOCABULARY,
            d_model=128,
            d_kv=32,
            d_ff=320,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        ),
        Seq2SeqModel,
        ("logits",),
        {"input_ids": (4, 16), "decoder_input_ids": (4, 12)},
        {
            "input_ids": {0: "batch", 1: "sequence"},
            "decoder_input_ids": {0: "batch", 1: "target"},
        },
    ),
    "vit": _signal(
        "ViTForImageClassification", "ViTConfig", "logits", (4, 3, 96, 96), **_VISION_SIZE
    ),
    "deit": _signal(
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        "logits",
        (4, 3, 96, 96),
        **_VISION_SIZE,
    ),
    "swin": _signal(
        "SwinForImageClassification",
        "SwinConfig",
        "logits",
        (4, 3, 112, 112),
        image_size=112,
        embed_dim=48,
        depths=[2, 2],
        num_heads=[4, 8],
        window_size=7,
        num_labels=50,
    ),
    "convnext": _signal(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        "logits",
        (4, 3, 96, 96),
        hidden_sizes=[48, 96, 192],
        depths=[2, 2, 2],
        num_stages=3,
        num_labels=50,
    ),
    "convnextv2": _signal(
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        "logits",
        (4, 3, 96, 96),
        hidden_sizes=[48, 96, 192],
        depths=[2, 2, 2],
        num_stages=3,
        num_labels=50,
    ),
    "segformer": _signal(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        "logits",
        (4, 3, 128, 128),
        depths=[2, 2, 2, 2],
        hidden_sizes=[32, 64, 96, 128],
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=128,
        num_labels=20,
    ),
    "whisper_encoder": _Spec(
        _whisper_encoder,
        SignalModel,
        ("last_hidden_state",),
        {"signal": (4, 80, 200)},
        {"signal": {0: "batch"}},
    ),
    "wav2vec2": _signal(
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        "last_hidden_state",
        (4, 4000),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        conv_dim=[64] * 7,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
    ),
    "clip": _Spec(
        _clip,
        TwoTowers,
        ("image_embeds", "text_embeds"),
        _TEXT | {"image": (4, 3, 96, 96)},
        _TEXT_AXES | {"image": {0: "batch"}},
    ),
    "mamba": _Spec(
        _model(
            "MambaForCausalLM",
            "MambaConfig",
            vocab_size=VOCABULARY,
            hidden_size=96,
            state_size=8,
            num_hidden_layers=2,
            use_mambapy=False,
        ),
        CausalModel,
        ("logits",),
        _TOKENS,
        {"input_ids": {0: "batch"}},  # the scan is a Python loop over time: its length is fixed
    ),
}

#: The names `sample` understands.
NAMES: tuple[str, ...] = tuple(_SPECS)


def sample(name: str, *, seed: int = 0) -> Sample:
    """Build one architecture of `NAMES`; raises KeyError for another name."""
    spec = _SPECS[name]
    torch.manual_seed(seed)
    torchvision()  # transformers imports it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf = importlib.import_module("transformers")
        hf.logging.set_verbosity_error()
        module = spec.wrap(spec.make(hf), spec.outputs)
    inputs = {key: _input(key, shape, seed) for key, shape in spec.inputs.items()}
    enliven(module, inputs, seed)
    return Sample(module, inputs, spec.axes, spec.outputs)


def _input(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    if "mask" in name:
        mask = torch.ones(shape, dtype=torch.int64)
        mask[1::2, -4:] = 0
        return mask
    if "ids" in name:
        return torch.randint(0, 100, shape, generator=generator)
    if len(shape) == 4:
        return live_images(shape, seed + 1)
    return torch.randn(shape, generator=generator)
