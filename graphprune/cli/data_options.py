"""Options that say what a model is measured and refitted on, and what is searched for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphprune.cli import options as opt


def _option(name: str, metavar: str, text: str, panel: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel)


Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="SOURCE",
        help="Unlabelled inputs to choose by and to refit the pruned model with: .npz or .npy "
        "files, a folder of them or of images, a text file with --tokenizer, module:callable that "
        "yields feeds, or random.",
        rich_help_panel=opt.WHAT,
    ),
]
CalibSamples = Annotated[
    int,
    typer.Option(
        "--calib-samples",
        metavar="N",
        help="Use as many calibration samples at most.",
        rich_help_panel=opt.WHAT,
    ),
]
CalibImages = Annotated[
    str | None,
    typer.Option(
        "--calib-images",
        metavar="KEY=VALUE,...",
        help="How images become inputs: size=224, layout=nchw, mean=0.485:0.456:0.406, std=..., "
        "scale=255, fit=crop|stretch|pad, colour=rgb|bgr. What is not said follows from the input.",
        rich_help_panel=opt.WHAT,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="FILE",
        help="The tokenizer.json for a text file given to --calib.",
        rich_help_panel=opt.WHAT,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        metavar="N",
        help="Tokens of one text at most; else as the model or the tokenizer says, or 128.",
        rich_help_panel=opt.WHAT,
    ),
]
Eval = Annotated[
    str | None,
    typer.Option(
        "--eval",
        metavar="MODULE:CALLABLE",
        help="Your own metric, higher is better: called with an onnxruntime session of the "
        "original and of the result, gives a number.",
        rich_help_panel=opt.WHAT,
    ),
]
Distill = Annotated[
    float | None,
    typer.Option(
        "--distill",
        metavar="MINUTES",
        help="Then train it for so long to give what the original gives on the calibration inputs "
        "(thousands of them; needs the torch extra).",
        rich_help_panel=opt.WHAT,
    ),
]
DistillCheckpoint = Annotated[
    str | None,
    typer.Option(
        "--distill-checkpoint",
        metavar="DIR",
        help="Keep the state of the training there: the same command goes on after an interruption.",
        rich_help_panel=opt.WHAT,
    ),
]
Latency = Annotated[
    float | None,
    _option(
        "--latency",
        "R",
        "Keep at most this fraction of the model's measured time in onnxruntime.",
        opt.STAYS,
    ),
]
LatencyMs = Annotated[
    float | None, _option("--latency-ms", "X", "The same in milliseconds.", opt.STAYS)
]
LatencyTable = Annotated[
    str | None,
    _option(
        "--latency-table",
        "FILE",
        "Keep what each node takes there: measured once, read from then on.",
        opt.RUN,
    ),
]
MaxDrop = Annotated[
    float | None,
    _option(
        "--max-drop",
        "X",
        "Prune as far as the metric of --eval falls by no more than X.",
        opt.STAYS,
    ),
]
MaxDivergence = Annotated[
    float | None,
    _option(
        "--max-divergence",
        "X",
        "Prune as far as outputs on held-out --calib inputs have a relative error of at most X.",
        opt.STAYS,
    ),
]
RatiosFrom = Annotated[
    str | None,
    _option(
        "--ratios-from",
        "S.json",
        "Take the damage of each group from a file of graphprune sensitivity.",
        opt.WHAT,
    ),
]
