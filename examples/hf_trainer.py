"""Pruning while a Hugging Face Trainer trains: one callback.

    pip install transformers accelerate
    python examples/hf_trainer.py       # about ten seconds on one core, nothing is downloaded

A BERT of one layer learns to tell which of two groups of tokens a sequence holds more of. Heads and
feed-forward neurons leave at two points of the training; the model stays the same object, and
optimizer and learning-rate schedule go on.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from graphprune.decide import Scores
from graphprune.torch.scores import scores_from
from graphprune.torch.trainer import PruningCallback


class Tokens(Dataset[dict[str, torch.Tensor]]):
    """Sequences of 12 tokens out of 40; the label says whether most of them are under 20."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 40, (count, 12), generator=generator)
        self.labels = ((self.tokens < 20).sum(1) > 6).long()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """One sequence, by the names of the model's arguments."""
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


def accuracy(model: nn.Module, data: Tokens) -> float:
    """Share of sequences that are classified correctly."""
    model.eval()
    with torch.no_grad():
        return float((model(input_ids=data.tokens).logits.argmax(1) == data.labels).float().mean())


def main() -> dict[str, float]:
    """Run it; gives the figures that are printed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", type=float, default=0.5, help="share of heads and neurons")
    options.add_argument("--folder", type=Path, help="where the Trainer writes")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    model = BertForSequenceClassification(config)
    train, test = Tokens(1600, seed=1), Tokens(400, seed=2)
    size = sum(p.numel() for p in model.parameters())

    def scores(model: nn.Module) -> Scores:
        def losses() -> Iterator[torch.Tensor]:
            for start in range(0, 128, 32):
                part = slice(start, start + 32)
                yield model(input_ids=train.tokens[part], labels=train.labels[part]).loss

        return scores_from(model, losses)

    pruning = PruningCallback(
        {"input_ids": train.tokens[:2]},  # example inputs: the model is traced with them
        at_steps=(50, 70),
        schedule="linear",
        scores=scores,
        channels=given.keep,
        align=1,
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=100,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            lr_scheduler_type="linear",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=train,
        callbacks=[pruning],
    )
    trainer.train()
    assert trainer.model is model  # still the user's own, smaller

    for step in pruning.steps:
        print(f"pruning {step.step}: {step.params} parameters, {step.macs} multiply-adds")
    after = accuracy(model, test)
    smaller = sum(p.numel() for p in model.parameters())
    layer = model.bert.encoder.layer[0]
    print(
        f"parameters {size} -> {smaller}, accuracy {after:.3f}, first layer: "
        f"query {tuple(layer.attention.self.query.weight.shape)}, "
        f"feed-forward {tuple(layer.intermediate.dense.weight.shape)}"
    )
    return {"after": after, "share": smaller / size}


if __name__ == "__main__":
    main()
