"""Saving and loading without pickled code."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from torch_nets import Cnn, Transformer, cnn, transformer  # noqa: E402

import graphprune.torch as gpt  # noqa: E402
from graphprune.errors import UsageError  # noqa: E402
from models_zoo.builders.torchvision_shim import torchvision  # noqa: E402


@pytest.mark.parametrize(("make", "fresh"), [(cnn, Cnn), (transformer, Transformer)])
@pytest.mark.parametrize("own", [None, False])
def test_a_fresh_instance_becomes_the_saved_one(make, fresh, own, tmp_path: Path) -> None:
    module, args = make()
    pruned = gpt.prune(module, args, channels=0.5, residual=True, align=1, own=own, verify=False)
    gpt.save(pruned, tmp_path / "small.safetensors")
    torch.manual_seed(5)
    loaded = gpt.load(tmp_path / "small.safetensors", fresh())
    assert loaded.kind == pruned.kind
    for a, b in zip(
        loaded.module.state_dict().items(), pruned.module.state_dict().items(), strict=True
    ):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    with torch.no_grad():
        assert torch.equal(loaded.module.eval()(*args), pruned.module.eval()(*args))


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    from safetensors import safe_open

    module, args = transformer()
    pruned = gpt.prune(module, args, channels=0.5, residual=True, align=1, verify=False)
    gpt.save(pruned, tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", framework="pt") as file:
        names = list(file.keys())
    assert len({"table.weight", "head.weight"} & set(names)) == 1
    loaded = gpt.load(tmp_path / "small.safetensors", Transformer())
    assert loaded.module.head.weight is loaded.module.table.weight


def test_trained_weights_are_what_is_saved(tmp_path: Path) -> None:
    module, args = cnn()
    pruned = gpt.prune(module, args, channels=0.5, verify=False)
    with torch.no_grad():
        for parameter in pruned.module.parameters():
            parameter.mul_(1.5)
    gpt.save(pruned, tmp_path / "small.safetensors")
    loaded = gpt.load(tmp_path / "small.safetensors", Cnn())
    assert torch.equal(loaded.module.head.weight, pruned.module.head.weight)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    module, args = transformer()
    path = tmp_path / "small.safetensors"
    gpt.save(gpt.prune(module, args, channels=0.5, verify=False), path)
    with pytest.raises(UsageError, match="holds a pruned Transformer, this is a Cnn"):
        gpt.load(path, Cnn())
    with pytest.raises(UsageError, match="cannot read"):
        gpt.load(tmp_path / "absent.safetensors", Transformer())

    other = Transformer()
    other.fc1, other.fc2 = torch.nn.Linear(32, 48), torch.nn.Linear(48, 32)
    with pytest.raises(UsageError, match="made for another"):
        gpt.load(path, other)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="cannot read"):
        gpt.load(damaged, Transformer())
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UsageError, match="not written by"):
        gpt.load(tmp_path / "foreign.safetensors", Transformer())


def test_hugging_face_folders(tmp_path: Path) -> None:
    torchvision()  # transformers imports it where it is installed
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    kind = transformers.BertForSequenceClassification
    torch.manual_seed(0)
    model = kind(config).eval()
    tokens = torch.randint(0, 50, (2, 9))
    pruned = gpt.prune(model, (tokens,), channels=0.5, align=1, verify=False)
    assert pruned.kind == "module"
    gpt.save_pretrained(pruned, tmp_path / "small")
    loaded = gpt.from_pretrained(kind, tmp_path / "small")
    with torch.no_grad():
        wanted = pruned.module.eval()(tokens).logits
        assert torch.equal(loaded.module.eval()(tokens).logits, wanted)
    with pytest.raises(UsageError, match="holds a pruned BertForSequenceClassification"):
        gpt.from_pretrained(transformers.BertForMaskedLM, tmp_path / "small")
    with pytest.raises(UsageError, match="save_pretrained"):
        gpt.from_pretrained(kind, tmp_path)
