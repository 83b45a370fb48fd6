"""Training recipes: data as distributed is read, runs repeat, an interrupted run goes on."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from models_zoo.recipes import fashion  # noqa: E402
from models_zoo.recipes.resnet_fashion import ResNet  # noqa: E402
from models_zoo.recipes.vit_fashion import ViT  # noqa: E402

SCHEDULE = fashion.Schedule(epochs=7, batch=8, lr=0.05, weight_decay=0.0, warmup=10)


def bright_or_dark() -> fashion.Split:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 256).astype(np.uint8)
    images = random.integers(0, 120, (256, 28, 28)) + 100 * labels[:, None, None]
    return fashion.Split(images.astype(np.uint8), labels)


def trained(checkpoint: Path) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    fashion.train(model, optimizer, bright_or_dark(), SCHEDULE, checkpoint)
    return model


def test_training_learns_and_an_interrupted_run_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(tmp_path / "whole.checkpoint")
    assert fashion.accuracy(whole, bright_or_dark()) > 0.95
    steps, augment = 0, fashion.augment

    def interrupted(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 150:
            raise KeyboardInterrupt
        return augment(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fashion, "augment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "part.checkpoint")
    monkeypatch.undo()
    continued = trained(tmp_path / "part.checkpoint")
    for key, value in whole.state_dict().items():
        assert torch.equal(value, continued.state_dict()[key])


def test_augmentation_moves_pixels_and_keeps_their_values() -> None:
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 14, 10] = 1.0
    moved = fashion.augment(images, torch.Generator().manual_seed(0))
    rows, columns = moved[:, 0].flatten(1).argmax(1) // 28, moved[:, 0].flatten(1).argmax(1) % 28
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(64))
    assert set(rows.tolist()) == set(range(12, 17))
    assert set(columns.tolist()) <= set(range(8, 13)) | set(range(15, 20))


def test_the_original_files_are_read(tmp_path: Path) -> None:
    split = bright_or_dark()
    for name, header, array in (
        ("images-idx3", 16, split.images),
        ("labels-idx1", 8, split.labels),
    ):
        with gzip.open(tmp_path / f"t10k-{name}-ubyte.gz", "wb") as file:
            file.write(bytes(header) + array.tobytes())
    read = fashion.read_split(tmp_path, "t10k")
    np.testing.assert_array_equal(read.images, split.images)
    np.testing.assert_array_equal(read.labels, split.labels)


@pytest.mark.parametrize("build", [ResNet, ViT])
def test_the_architectures_take_images_and_stay_small(build: type[nn.Module]) -> None:
    model = build().eval()
    assert sum(p.numel() for p in model.parameters()) * 4 < 3_000_000
    with torch.no_grad():
        logits = model(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10)
    assert logits.std(0).max() > 0
