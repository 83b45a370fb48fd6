"""BERT-base at its real size, with live random weights: what the zoo's reduced BERT stands for.

    python -m tools.bert_base FOLDER

writes FOLDER/bert-base.onnx: 12 layers, 768 wide, 12 heads, sequences of 128, a classifier on top so
that the trunk is no output (110 M parameters, 440 MB).
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

LENGTH = 128


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bert_base", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=12)
    given = parser.parse_args()

    import torch

    from models_zoo.builders.export import export
    from models_zoo.builders.live import enliven
    from models_zoo.builders.torchvision_shim import torchvision
    from models_zoo.builders.transformers_models import TextModel

    torchvision()  # transformers imports it
    hf = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = hf.BertConfig(num_hidden_layers=given.layers, num_labels=10)
    module = TextModel(hf.BertForSequenceClassification(config), ("logits",))
    generator = torch.Generator().manual_seed(1)
    inputs = {
        "input_ids": torch.randint(0, 20000, (4, LENGTH), generator=generator),
        "attention_mask": torch.ones((4, LENGTH), dtype=torch.int64),
    }
    enliven(module, inputs, 0)
    axes = {name: {0: "batch"} for name in inputs}
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / "bert-base.onnx"
    export(module, inputs, path, axes=axes, output_names=("logits",))
    print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
