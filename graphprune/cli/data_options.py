"""Options that say what a model is measured and refitted on, and what is searched for."""

from __future__ import annotations

from typing import Annotated, Any

from graphprune.cli import options as opt

Calib = Annotated[
    str | None,
    opt.option(
        "--calib",
        "SOURCE",
        "Unlabelled inputs to choose by (graphprune compile also refits the pruned model with them): "
        ".npz or .npy files, a folder of them or of images, a text file with --tokenizer, "
        "module:callable that yields feeds, zoo:NAME, or random.",
        opt.WHAT,
    ),
]
CalibSamples = Annotated[
    int,
    opt.option("--calib-samples", "N", "Use as many calibration samples at most.", opt.WHAT),
]
CalibImages = Annotated[
    str | None,
    opt.option(
        "--calib-images",
        "KEY=VALUE,...",
        "How images become inputs: size=224, layout=nchw, mean=0.485:0.456:0.406, std=..., "
        "scale=255, fit=crop|stretch|pad, colour=rgb|bgr. What is not said follows from the input.",
        opt.WHAT,
    ),
]
Tokenizer = Annotated[
    str | None,
    opt.option(
        "--tokenizer", "FILE", "The tokenizer.json for a text file given to --calib.", opt.WHAT
    ),
]
MaxLength = Annotated[
    int | None,
    opt.option(
        "--max-length",
        "N",
        "Tokens of one text at most; else as the model or the tokenizer says, or 128.",
        opt.WHAT,
    ),
]
Eval = Annotated[
    str | None,
    opt.option(
        "--eval",
        "MODULE:CALLABLE",
        "Your own metric, higher is better: called with an onnxruntime session of the "
        "original and of the result, gives a number.",
        opt.WHAT,
    ),
]
Distill = Annotated[
    float | None,
    opt.option(
        "--distill",
        "MINUTES",
        "Then train it for so long to give what the original gives on the calibration inputs "
        "(thousands of them; needs the torch extra).",
        opt.WHAT,
    ),
]
DistillCheckpoint = Annotated[
    str | None,
    opt.option(
        "--distill-checkpoint",
        "DIR",
        "Keep the state of the training there: the same command goes on after an interruption.",
        opt.WHAT,
    ),
]
Latency = Annotated[
    float | None,
    opt.option(
        "--latency",
        "R",
        "Keep at most this fraction of the model's measured time in onnxruntime.",
        opt.STAYS,
    ),
]
LatencyMs = Annotated[
    float | None, opt.option("--latency-ms", "X", "The same in milliseconds.", opt.STAYS)
]
LatencyTable = Annotated[
    str | None,
    opt.option(
        "--latency-table",
        "FILE",
        "Keep what each node takes there: measured once, read from then on.",
        opt.RUN,
    ),
]
MaxDrop = Annotated[
    float | None,
    opt.option(
        "--max-drop",
        "X",
        "Prune as far as the metric of --eval falls by no more than X.",
        opt.STAYS,
    ),
]
MaxDivergence = Annotated[
    float | None,
    opt.option(
        "--max-divergence",
        "X",
        "Prune as far as outputs on held-out --calib inputs have a relative error of at most X.",
        opt.STAYS,
    ),
]
RatiosFrom = Annotated[
    str | None,
    opt.option(
        "--ratios-from",
        "S.json",
        "Take the damage of each group from a file of graphprune sensitivity.",
        opt.WHAT,
    ),
]


def reading(
    calib: str | None,
    samples: int,
    images: str | None,
    tokenizer: str | None,
    max_length: int | None,
) -> dict[str, Any]:
    """What calibration inputs there are and how they become feeds, under the names of `Options`."""
    return {
        "calib": calib,
        "calib_samples": opt.at_least(samples, 8, "--calib-samples"),
        "calib_images": images,
        "tokenizer": tokenizer,
        "max_length": max_length,
    }
