"""Inputs for real trained models: rated sentences, rendered lines and pages, speech, files.

Everything comes from packages unpacked into one folder (see `tools/accuracy_cases.py`), or is drawn by
a seeded generator. What is scored and what calibrates never overlap: other clips, other words, other
domains, other files, mostly of other directories.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import tarfile
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models_zoo.recipes import data_speech

FONTS = Path("/usr/share/fonts/truetype/dejavu")
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono")

# -- sentences ------------------------------------------------------------------------------------


def rated(packages: Path, kind: str) -> list[tuple[float, str]]:
    """(mean human rating from -4 to 4, text) of Hutto and Gilbert (2014).

    Args:
        packages: Holds `vaderSentiment-0.5`, the unpacked sdist.
        kind: `tweets`, `amazonReviewSnippets`, `movieReviewSnippets` or `nytEditorialSnippets`.
    """
    archive = packages / "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
    with tarfile.open(archive) as file:
        member = file.extractfile(f"hutto_ICWSM_2014/{kind}_GroundTruth.txt")
        assert member is not None
        text = member.read().decode("utf-8", errors="replace")
    rows = [line.split("\t", 2) for line in text.splitlines()]
    return [(float(r[1]), html.unescape(r[2]).strip()) for r in rows if len(r) == 3]


def words(packages: Path, corpus: str) -> list[str]:
    """The running words of a corpus in gensim's test data: `lee.cor`, `lee_background.cor`."""
    path = packages / "gensim/test/test_data" / corpus
    return path.read_text(encoding="latin-1").split()


# -- pictures of text -----------------------------------------------------------------------------


def _face(random: np.random.Generator, low: int, high: int) -> ImageFont.FreeTypeFont:
    face = FACES[random.integers(len(FACES))]
    return ImageFont.truetype(str(FONTS / f"{face}.ttf"), int(random.integers(low, high)))


def lines(
    source: Sequence[str], count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cropped lines of text `(n, 48, 192)` uint8; label 1 where a line is upside down."""
    labels = random.integers(0, 2, count).astype(np.uint8)
    pictures = []
    for label in labels:
        font = _face(random, 22, 34)
        start = int(random.integers(len(source) - 8))
        text = " ".join(source[start : start + int(random.integers(1, 5))])
        paper, ink = int(random.integers(190, 256)), int(random.integers(0, 70))
        left, top, right, bottom = font.getbbox(text)
        margin = int(random.integers(2, 7))
        size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
        line = Image.new("L", size, paper)
        ImageDraw.Draw(line).text((margin - left, margin - top), text, ink, font)
        line = line.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 0.8))))
        line = line.rotate(180) if label else line
        width = min(192, max(1, round(48 * size[0] / size[1])))
        canvas = np.full((48, 192), 127, np.uint8)  # what the classifier's own program pads with
        canvas[:, :width] = np.asarray(line.resize((width, 48), Image.Resampling.BILINEAR))
        pictures.append(canvas)
    return np.stack(pictures), labels


def pages(
    source: Sequence[str], count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pages of text `(n, 224, 224)` uint8, turned by `label` times 90 degrees, clockwise."""
    labels = random.integers(0, 4, count).astype(np.uint8)
    pictures = []
    for label in labels:
        width, height = int(random.integers(420, 640)), int(random.integers(560, 760))
        page = Image.new("L", (width, height), int(random.integers(225, 256)))
        draw, font = ImageDraw.Draw(page), _face(random, 13, 22)
        ink, y = int(random.integers(0, 80)), int(random.integers(12, 60))
        left = int(random.integers(12, 60))
        while y < height - 30:
            start = int(random.integers(len(source) - 12))
            text = " ".join(source[start : start + int(random.integers(3, 12))])
            draw.text((left, y), text, ink, font)
            gap = 1.25 if random.random() < 0.85 else 2.4  # the end of a paragraph
            y += round(font.size * gap)
        turned = page.rotate(float(random.normal(0, 0.6)), fillcolor=255).rotate(
            -90 * int(label), expand=True
        )
        scale = 256 / min(turned.size)
        size = (round(turned.size[0] * scale), round(turned.size[1] * scale))
        pictures.append(_centre(turned.resize(size, Image.Resampling.LANCZOS)))
    return np.stack(pictures), labels


def _centre(image: Image.Image) -> np.ndarray:
    left, top = (image.size[0] - 224) // 2, (image.size[1] - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224)))


# -- speech ---------------------------------------------------------------------------------------

SCORED_CLIPS = data_speech.EVALUATION
FREE_CLIPS = (
    *data_speech.CALIBRATION,
    *(f"cards/00{i}.wav" for i in range(1, 5)),
    "goforward.raw",
    "something.raw",
)


def clips(packages: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Clips of Debian's `pocketsphinx-testdata`, 16 kHz, float64 in [-1, 1]."""
    folder = packages / "usr/share/pocketsphinx/test/data"
    return [data_speech.read(folder / name) for name in names]


# -- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelledFile:
    """A file, what its extension says it is, and which half of the directories it lies in."""

    path: Path
    label: str
    scored: bool


def files(roots: Sequence[Path], kinds: Path, labels: Sequence[str]) -> Iterator[LabelledFile]:
    """Files whose extension belongs to exactly one content type, each content once.

    Args:
        roots: Folders to walk; links are not followed.
        kinds: Magika's `content_types_kb.min.json`: extensions of each type.
        labels: Types the model knows.
    """
    known = json.loads(kinds.read_text())
    owners: dict[str, set[str]] = {}
    for label, facts in known.items():
        for extension in facts.get("extensions", ()):
            owners.setdefault(extension, set()).add(label)
    sure = {e: next(iter(of)) for e, of in owners.items() if len(of) == 1 and of <= set(labels)}
    for path, ending, half in _walk(roots, sure):
        yield LabelledFile(path, sure[ending], half)


def unlabelled_files(
    roots: Sequence[Path], *, both_halves: bool = False
) -> Iterator[tuple[Path, str]]:
    """All files with their endings, of the half of the directories that is not scored or of both."""
    for path, ending, half in _walk(roots):
        if both_halves or not half:
            yield path, ending


def _walk(
    roots: Sequence[Path], endings: Container[str] | None = None
) -> Iterator[tuple[Path, str, bool]]:
    """Path, ending and half of the files with such endings, each content once."""
    seen: set[bytes] = set()
    for root in roots:
        for folder, below, names in os.walk(root):
            below.sort()
            half = hashlib.sha256(folder.encode()).digest()[0] % 2 == 0
            for name in sorted(names):
                ending = name.rpartition(".")[2].lower() if "." in name else ""
                path = Path(folder, name)
                if endings is not None and ending not in endings:
                    continue
                if path.is_symlink() or not path.is_file() or path.stat().st_size < 64:
                    continue
                digest = hashlib.sha256(head_and_tail(path).tobytes()).digest()
                if digest not in seen:
                    seen.add(digest)
                    yield path, ending, half


def head_and_tail(
    path: Path, size: int = 1024, block: int = 4096, padding: int = 256
) -> np.ndarray:
    """What Magika reads of a file: `(2 * size,)` int32, first and last bytes without white space."""
    with path.open("rb") as file:
        first = file.read(block).lstrip()[:size]
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - block))
        last = file.read(block).rstrip()[-size:]
    row = np.full(2 * size, padding, np.int32)
    row[: len(first)] = np.frombuffer(first, np.uint8)
    if last:
        row[2 * size - len(last) :] = np.frombuffer(last, np.uint8)
    return row
