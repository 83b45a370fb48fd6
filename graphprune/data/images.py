"""A folder of images as calibration inputs, with the preprocessing that the user declares.

    size=224,layout=nchw,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,scale=255

x = (pixel / scale - mean) / std, by channel. What is not said follows from the model's input: height
and width from its shape (224 where they are free), the layout from where 1, 3 or 4 channels stand,
grey, RGB or RGBA from their number, scale 255 for floats and none for bytes, mean 0 and std 1.

Images are scaled until they cover the size and cut to their centre (`fit=crop`), stretched
(`fit=stretch`), or scaled to fit into it and filled up with black (`fit=pad`). `colour=bgr` swaps
channels, as OpenCV reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.imported import line_of
from graphprune.errors import UsageError
from graphprune.onnx.bindings import real_inputs

Array = np.ndarray[Any, Any]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_KEYS = ("size", "layout", "mean", "std", "scale", "fit", "colour")
_FITS = ("crop", "stretch", "pad")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an array.

    Attributes:
        height: Of the array, pixels.
        width: The same.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        first: Whether channels come before height and width.
        scale: Pixels are divided by it.
        mean: Then less this, one number for each channel.
        std: Then divided by this.
        fit: `crop`, `stretch` or `pad`.
        bgr: Whether channels are in the order of OpenCV.
    """

    height: int
    width: int
    channels: int
    first: bool
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "crop"
    bgr: bool = False

    def __call__(self, image: Any) -> Array:
        """A Pillow image as float32 `(channels, height, width)`, or channels last."""
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image).convert(_MODES[self.channels])
        size = (self.width, self.height)
        if self.fit == "crop":
            image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
        elif self.fit == "pad":
            image = ImageOps.pad(image, size, Image.Resampling.BILINEAR)
        else:
            image = image.resize(size, Image.Resampling.BILINEAR)
        array: Array = np.asarray(image, np.float32)
        array = array.reshape(self.height, self.width, self.channels)
        if self.bgr:
            array = array[:, :, ::-1]
        array = array / np.float32(self.scale)
        array = (array - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(array.transpose(2, 0, 1) if self.first else array)


def image_files(folder: Path) -> list[Path]:
    """Every image below `folder`, in an order that is mixed but always the same.

    Folders often hold one class each: the first so many by name would be of the first class.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def image_stacks(
    folder: Path, model: ir.Model, declared: str | None, step: int
) -> Iterator[tuple[str, Array]]:
    """Input name and arrays of `step` images each, in the input's type.

    Args:
        folder: With images below it.
        model: With one input.
        declared: What the user said of the preprocessing.
        step: Images in one array.

    Raises:
        UsageError: Pillow is missing, the model takes something else, an image is not readable.
    """
    value = _image_input(model)
    prepare = preprocessing(value, declared)
    _pillow()
    assert value.dtype is not None
    dtype = np.dtype(value.dtype.numpy())
    files = image_files(folder)
    for start in range(0, len(files), step):
        arrays = [_read(file, prepare) for file in files[start : start + step]]
        stack = np.stack(arrays)
        yield (
            value.name or "",
            np.rint(stack).astype(dtype) if dtype.kind in "iu" else (stack.astype(dtype)),
        )


def preprocessing(value: ir.Value, declared: str | None) -> Preprocessing:
    """What the user declared, and for the rest what the input says.

    Raises:
        UsageError: A key or a value that is none, or one that the input's shape contradicts.
    """
    given = _parsed(declared or "")
    dims = [d if isinstance(d, int) and d > 0 else None for d in value.shape or ()]
    if len(dims) != 4:
        raise UsageError(
            f"a folder of images needs an input of 4 dimensions: '{value.name}' has {len(dims)}"
        )
    layout = given.get("layout")
    if layout is None:
        layout = "nhwc" if dims[1] not in _MODES and dims[3] in _MODES else "nchw"
    if layout not in ("nchw", "nhwc"):
        raise UsageError(f"--calib-images layout={layout} is neither nchw nor nhwc")
    first = layout == "nchw"
    channels, height, width = (dims[1], dims[2], dims[3]) if first else (dims[3], dims[1], dims[2])
    if channels is None:
        lengths = [len(given[k].split(":")) for k in ("mean", "std") if k in given]
        channels = max([n for n in lengths if n in _MODES], default=3)
        channels = 3 if channels == 1 else channels  # one number stands for all channels
    if channels not in _MODES:
        raise UsageError(
            f"'{value.name}' takes {channels} channels in layout {layout}: images have 1, 3 or 4 "
            "(is it the other layout?)"
        )
    size = _size(given.get("size"), height, width, value.name or "")
    floating = value.dtype is None or value.dtype.is_floating_point()
    scale = _numbers("scale", given.get("scale", "255" if floating else "1"), 1)[0]
    fit, colour = given.get("fit", "crop"), given.get("colour", "rgb")
    if fit not in _FITS:
        raise UsageError(f"--calib-images fit={fit} is none of {', '.join(_FITS)}")
    if colour not in ("rgb", "bgr") or (colour == "bgr" and channels != 3):
        raise UsageError(f"--calib-images colour={colour}: rgb, or bgr for three channels")
    std = _numbers("std", given.get("std", "1"), channels)
    if scale == 0 or 0 in std:
        raise UsageError("--calib-images divides by scale and std: they cannot be 0")
    mean = _numbers("mean", given.get("mean", "0"), channels)
    return Preprocessing(*size, channels, first, scale, mean, std, fit, colour == "bgr")


def _parsed(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in _KEYS or not equals or not value:
            raise UsageError(
                f"--calib-images '{item}' is no KEY=VALUE of {', '.join(_KEYS)} (numbers of several "
                "channels with colons: mean=0.5:0.5:0.5)"
            )
        if key in found:
            raise UsageError(f"--calib-images says {key} twice")
        found[key] = value.lower()
    return found


def _numbers(key: str, text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(":"))
    except ValueError:
        numbers = ()
    if not numbers or not np.isfinite(numbers).all() or len(numbers) not in (1, count):
        wanted = "one number" if count == 1 else f"one number, or {count} with colons between them"
        raise UsageError(f"--calib-images {key}={text} is not {wanted}")
    return numbers * count if len(numbers) == 1 else numbers


def _size(text: str | None, height: int | None, width: int | None, name: str) -> tuple[int, int]:
    if text is None:
        return height or width or _DEFAULT_SIZE, width or height or _DEFAULT_SIZE
    parts = text.split("x")
    if len(parts) > 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"--calib-images size={text} is neither SIDE nor HEIGHTxWIDTH in pixels")
    given = int(parts[0]), int(parts[-1])
    if given != (height or given[0], width or given[1]):
        raise UsageError(
            f"--calib-images size={text}, but '{name}' takes {height or '?'}x{width or '?'} pixels"
        )
    return given


def _image_input(model: ir.Model) -> ir.Value:
    inputs = real_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(f"'{v.name}'" for v in inputs)
        raise UsageError(
            f"a folder of images fills one input, the model has {names}: give .npz files or "
            "module:callable"
        )
    return inputs[0]


def _pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "a folder of images needs Pillow: pip install 'graphprune[images]'"
        ) from error


def _read(file: Path, prepare: Preprocessing) -> Array:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return prepare(image)
    except Exception as error:  # every format has errors of its own
        raise UsageError(
            f"cannot read image {file}: {type(error).__name__}: {line_of(error)}"
        ) from error
