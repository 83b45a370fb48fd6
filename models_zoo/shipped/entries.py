"""The table of shipped models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphprune.zoo import inputs, metrics
from graphprune.zoo.entry import ZooEntry


def _classified(scores: np.ndarray, arrays: Mapping[str, np.ndarray]) -> float:
    return metrics.accuracy(scores, arrays["labels"])


def _detected(scores: np.ndarray, arrays: Mapping[str, np.ndarray]) -> float:
    labels = arrays["labels"]
    scored = labels < 2  # frames between speech and silence do not count
    return metrics.auc(scores[scored], labels[scored] == 1)


_ENTRIES = (
    ZooEntry(
        name="resnet-fashion",
        title="ResNet-14 (32, 64, 128 channels) on Fashion-MNIST",
        description=(
            "A CIFAR-style residual network, 0.70 M parameters, batch norms folded into the "
            "convolutions by torch's exporter. Trained by models_zoo/recipes/resnet_fashion.py in "
            "7 epochs; 92.7 % of all 10,000 test images, of which the first 2,000 ship."
        ),
        metric="accuracy",
        baseline=0.9310,
        licence="Apache-2.0 (model), MIT (data)",
        source="trained here on Fashion-MNIST (Zalando SE)",
        model="resnet-fashion.onnx",
        data="fashion-test.npz",
        unlabelled="fashion-calibration.npz",
        batches=inputs.pixels,
        score=_classified,
    ),
    ZooEntry(
        name="silero-vad",
        title="Silero VAD v6: STFT as Conv, four Conv, LSTM",
        description=(
            "A recurrent voice activity detector, 0.31 M parameters, one speech probability per "
            "32 ms. Judged on 20 s of read speech with pauses and pink noise at 12 dB, labelled by "
            "the energy of the clean recording."
        ),
        metric="AUC",
        baseline=0.9719,
        licence="MIT (model), public domain and BSD-2-Clause (speech)",
        source="PyPI silero-vad 6.2.3; Debian pocketsphinx-testdata",
        model="silero-vad.onnx",
        data="speech-test.npz",
        unlabelled="speech-calibration.npz",
        batches=inputs.frames,
        score=_detected,
        calibration_batches=inputs.sequences,
    ),
    ZooEntry(
        name="text-angle",
        title="PP-OCR text angle: MobileNetV3-small with separate batch norms",
        description=(
            "Is a line of text upright or upside down? 0.13 M parameters, exported by paddle2onnx: "
            "35 BatchNormalization nodes, squeeze-excite, HardSigmoid. Judged on 400 rendered "
            "lines."
        ),
        metric="accuracy",
        baseline=0.9625,
        licence="Apache-2.0",
        source="PaddleOCR, from PyPI rapidocr 3.10.0; lines rendered in DejaVu fonts",
        model="text-angle.onnx",
        data="text-test.npz",
        unlabelled="text-calibration.npz",
        batches=inputs.text_lines,
        score=_classified,
    ),
)

ENTRIES: dict[str, ZooEntry] = {entry.name: entry for entry in _ENTRIES}
