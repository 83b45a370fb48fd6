"""A folder of images as calibration inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workbench import drawn, from_text

from graphprune.data.feeds import read_calibration
from graphprune.data.images import image_files, preprocessing
from graphprune.errors import UsageError
from graphprune.onnx.load import load

RNG = np.random.default_rng(0)


def model(inputs: str = "float[N, 3, 8, 6] x", channels: int = 3) -> Any:
    body = "c = Cast <to = 1> (x) y = Conv (c, w)"
    weights = {"w": drawn(4, channels, 1, 1)}
    return load(from_text(body, weights, inputs=inputs, outputs="float[A, B, C, D] y")).model


def spec(declared: str | None = None, inputs: str = "float[N, 3, 8, 6] x") -> Any:
    (value,) = model(inputs).graph.inputs
    return preprocessing(value, declared)


def folder(path: Path, count: int = 12) -> Path:
    for i in range(count):
        array = np.full((8, 6, 3), i, np.uint8)
        array[:, :, 1] = 100
        (path / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(array).save(path / f"class{i % 2}" / f"{i}.png")
    (path / "notes.txt").write_text("no image")
    return path


def test_every_image_becomes_one_sample(tmp_path: Path) -> None:
    found = read_calibration(folder(tmp_path), model())
    parts = (*found.fit, *found.choose, *found.judge)
    arrays = np.concatenate([b.feeds["x"] for b in parts])
    assert arrays.shape == (12, 3, 8, 6)
    assert arrays.dtype == np.float32
    np.testing.assert_allclose(np.sort(arrays[:, 0, 0, 0]), np.arange(12) / 255, rtol=1e-6)
    np.testing.assert_allclose(arrays[:, 1], 100 / 255, rtol=1e-6)


def test_the_first_so_many_are_not_of_one_class(tmp_path: Path) -> None:
    files = image_files(folder(tmp_path, 40))
    assert files == image_files(tmp_path)
    assert {f.parent.name for f in files[:12]} == {"class0", "class1"}


def test_the_declared_formula() -> None:
    declared = "mean=0.485:0.456:0.406, std=0.229:0.224:0.225, scale=255, fit=stretch"
    pixels = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = spec(declared)(image)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    bgr = spec("scale=1,colour=bgr")(image)
    np.testing.assert_array_equal(bgr, pixels[:, :, ::-1].transpose(2, 0, 1))
    last = spec("scale=1", "float[N, 8, 6, 3] x")(image)
    np.testing.assert_array_equal(last, pixels)


def test_what_the_input_says() -> None:
    grey = spec(None, "float[N, 1, 8, 6] x")
    assert (grey.height, grey.width, grey.channels, grey.scale) == (8, 6, 1, 255)
    free = spec(None, "float[N, 3, H, W] x")
    assert (free.height, free.width, free.first) == (224, 224, True)
    assert spec("size=32", "float[N, 3, H, W] x").width == 32
    assert spec("size=48x192", "float[N, 3, 48, W] x").width == 192
    assert not spec(None, "float[N, H, W, 3] x").first
    assert spec(None, "uint8[N, 8, 6, 3] x").scale == 1
    assert spec("mean=0.5", "float[N, C, 8, 8] x").channels == 3


def test_bytes_stay_bytes(tmp_path: Path) -> None:
    found = read_calibration(folder(tmp_path), model("uint8[N, 3, 8, 6] x"))
    assert found.fit[0].feeds["x"].dtype == np.uint8
    assert found.fit[0].feeds["x"].max() == 100


@pytest.mark.parametrize(
    ("fit", "column"), [("crop", [200, 200, 200]), ("pad", [0, 200, 0]), ("stretch", [200] * 3)]
)
def test_fits(fit: str, column: list[int]) -> None:
    wide = Image.fromarray(np.full((10, 40, 3), 200, np.uint8))
    found = spec(f"scale=1,fit={fit}", "float[N, 3, 12, 12] x")(wide)
    assert found.shape == (3, 12, 12)
    np.testing.assert_array_equal(found[0, [0, 6, 11], 6], column)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("size", "'size' is no KEY=VALUE"),
        ("colours=rgb", "'colours=rgb' is no KEY=VALUE"),
        ("size=8,size=9", "says size twice"),
        ("size=0", "size=0 is neither"),
        ("size=9", "size=9, but 'x' takes 8x6"),
        ("layout=chw", "layout=chw is neither"),
        ("layout=nhwc", "takes 6 channels in layout nhwc"),
        ("mean=0.5:0.5", "mean=0.5:0.5 is not one number, or 3"),
        ("std=0", "cannot be 0"),
        ("scale=nan", "scale=nan is not one number"),
        ("fit=none", "fit=none is none of crop"),
        ("colour=red", "colour=red"),
    ],
)
def test_slips_in_what_is_declared(declared: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        spec(declared)
    assert "\n" not in str(caught.value)


def test_slips_with_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.npz or \.npy file and no image"):
        read_calibration(tmp_path / "empty", model())
    folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not one")
    with pytest.raises(UsageError, match=r"cannot read image .*broken\.png: ") as caught:
        read_calibration(tmp_path, model())
    assert "\n" not in str(caught.value)
    flat = load(from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})).model
    with pytest.raises(UsageError, match="'x' has 2"):
        read_calibration(tmp_path, flat)
    two = load(from_text("y = Add (x, s)", {}, inputs="float[N, 8] x, float[N, 8] s")).model
    with pytest.raises(UsageError, match="fills one input, the model has 'x', 's'"):
        read_calibration(tmp_path, two)
    with pytest.raises(UsageError, match="calib_images is for a folder of images"):
        read_calibration(np.zeros((8, 3, 8, 6), np.float32), model(), images="size=8x6")


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    folder(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"pip install 'graphprune\[images\]'"):
        read_calibration(tmp_path, model())
