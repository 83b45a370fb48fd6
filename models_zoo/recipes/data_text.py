"""Render text lines, upright and upside down, for the text-angle classifier.

    python -m models_zoo.recipes.data_text

Words from graphprune's licence text, DejaVu fonts (Debian's `fonts-dejavu`), sizes, tilt, contrast,
blur and noise at random. Needs Pillow.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models_zoo.recipes.data_fashion import SHIPPED

FONTS = Path("/usr/share/fonts/truetype/dejavu")
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono")
WORDS = Path(__file__).parents[2] / "LICENSE"
TEST_LINES, CALIBRATION_LINES = 400, 200


def line(words: list[str], fonts: Path, random: np.random.Generator) -> Image.Image:
    """One upright line of text, 192 x 48, grey."""
    face = fonts / f"{random.choice(FACES)}.ttf"
    font = ImageFont.truetype(str(face), int(random.integers(18, 34)))
    paper, ink = int(random.integers(150, 256)), int(random.integers(0, 90))
    start = int(random.integers(len(words) - 8))
    canvas = Image.new("L", (192, 48), paper)
    text = " ".join(words[start : start + 8])
    top = (48 - sum(font.getmetrics())) // 2 + int(random.integers(-3, 4))
    ImageDraw.Draw(canvas).text((int(random.integers(-8, 9)), top), text, ink, font)
    tilted = canvas.rotate(float(random.normal(0, 1.5)), Image.Resampling.BILINEAR, fillcolor=paper)
    return tilted.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))


def images(count: int, fonts: Path, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` lines `(n, 48, 192)` uint8; label 1 where the line is upside down."""
    words = re.findall(r"[A-Za-z]+", WORDS.read_text())
    labels = random.integers(0, 2, count)
    pictures = []
    for label in labels:
        picture = line(words, fonts, random)
        array = np.asarray(picture.rotate(180) if label else picture, np.float64)
        # Sixteen grey levels hide nothing from the classifier and pack well.
        pictures.append(np.clip(np.round(array / 17) * 17, 0, 255).astype(np.uint8))
    return np.stack(pictures), labels.astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fonts", type=Path, default=FONTS)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    pictures, labels = images(TEST_LINES, options.fonts, random)
    np.savez_compressed(options.out / "text-test.npz", images=pictures, labels=labels)
    pictures, _ = images(CALIBRATION_LINES, options.fonts, random)
    np.savez_compressed(options.out / "text-calibration.npz", images=pictures)


if __name__ == "__main__":
    main()
