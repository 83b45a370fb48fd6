"""The prunings of the study: each a key and what gives its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

import graphprune
from graphprune.passes import SparsifyPass
from graphprune.passes.sparsify import Mask
from tools._common import Record
from tools.bert_cases import EMBEDDINGS, ROLES, Subject, encoder, nonzero, read, word_table
from tools.bert_tokens import lengths

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9)
ROW_SHARES = (0.1, 0.3, 0.5)
EQUAL_SHARES = (Fraction(1, 3), Fraction(1, 6))
"""Of the encoder that leaves alone: one and two layers of six, half of the heads."""
BOTH_SHARES = (Fraction(1, 3), Fraction(1, 6))
CRITERIA = ("l2", "taylor", "activation", "energy", "wanda")
CHEAP = {"criterion": "activation"}
"""Where criteria are not compared: `energy` solves for each unit of a wide group."""
CRITERIA_SHARE = Fraction(1, 3)
SINGLE: dict[str, dict[str, Any]] = {
    "magnitude, global": {},
    "magnitude, local": {"scope": "local"},
    "wanda, local": {"criterion": "wanda", "scope": "local"},
}
Job = tuple[str, Callable[[], Record]]

# What leaves alone: from the share of the encoder that goes to options of `graphprune.compile`.
# Attention is a third of an encoder whose MLPs are four times as wide as it is, the MLPs the rest.
# `headed` ways prune the model behind a projection. Another way is another line.
WAYS: dict[str, Callable[[Fraction], dict[str, Any]]] = {
    "heads": lambda s: {"heads": float(1 - 3 * s)},
    "head dims": lambda s: {"head_dims": float(1 - 3 * s)},
    "neurons": lambda s: {"channels": float(1 - Fraction(3, 2) * s), "heads": 1.0},
    "hidden width": lambda s: {"channels": float(1 - s), "residual": True, "headed": True},
    "layers": lambda s: {"layers": float(1 - s)},
}


def possible(options: dict[str, Any], depth: int) -> bool:
    """Whether something stays of what leaves, and layers come out whole."""
    some = all(v > 0 for v in options.values() if isinstance(v, float))
    return some and abs(options.get("layers", 1) * depth % 1 - 0.5) > 0.49


def structured(subject: Subject, samples: int, seed: int, options: dict[str, Any]) -> Record:
    """Quality of a cut as it is, and with the layers behind it refitted."""
    path, given = str(subject.path), dict(options)
    if given.pop("headed", False):
        path = str(subject.headed)
        graph = graphprune.analyse(path, dims=subject.dims)
        given["exclude"] = [g.name for g in graph.groups if g.kind in ("head", "neuron")]
    fixed = {"dims": subject.dims, "bench": False, "allow_slower": True}
    feeds = subject.calibrate(seed, samples)
    fitted = graphprune.compile(
        path, calib=feeds, calib_samples=samples, seed=seed, **fixed, **given
    )
    cut = graphprune.compile(path, plan=fitted.plan, verify=False, **fixed)
    whole = nonzero(read(subject.path))
    return {
        "removed": 1 - nonzero(fitted.model) / whole,
        "certificate": fitted.report.certificate["status"],
        "as cut": subject.quality(cut.model),
        "refitted": subject.quality(fitted.model),
    }


def beside_single(subject: Subject, samples: int, share: Fraction) -> Record:
    """Heads and neurons together, and as many single weights of the encoder, chosen three ways."""
    record = structured(subject, samples, 0, {"channels": float(1 - share), **CHEAP})
    for name, way in SINGLE.items():
        calib = subject.calibrate(0, samples) if way.get("criterion") == "wanda" else None
        sparse = graphprune.sparsify(
            str(subject.path),
            sparsity=record["removed"],
            exclude=EMBEDDINGS,
            calib=calib,
            bench=False,
            **way,
        )
        record[name] = subject.quality(sparse.model)
    return record


def single(subject: Subject, sparsity: float, scope: str, exclude: tuple[str, ...]) -> Record:
    """Single weights by magnitude: quality, and the zeros of every matrix."""
    found = graphprune.sparsify(
        str(subject.path), sparsity=sparsity, scope=scope, exclude=exclude, bench=False
    )
    zeros = {w.name: w.sparsity for w in found.report.weights}
    layers = [zeros[w.name] for w in encoder(found.model)]
    return {
        **subject.quality(found.model),
        "layers": [layers[i : i + len(ROLES)] for i in range(0, len(layers), len(ROLES))],
        "tables": {n: z for n, z in zeros.items() if "embeddings" in n},
    }


def row_order(subject: Subject, way: str) -> np.ndarray:
    """Token ids, those whose rows leave first in front; what is in brackets is last."""
    ids, size = np.arange(len(subject.tokens)), lengths(subject.tokens)
    first = {
        "longest tokens": -size,
        "rarest tokens": -ids,
        "random tokens": np.random.default_rng(0).permutation(len(ids)),
    }[way]
    return np.lexsort((ids, first, size == 0))


def rows(subject: Subject, way: str, share: float) -> Record:
    """A share of the word embedding is zero: whole rows, or the smallest entries."""
    model = read(subject.path)
    table = word_table(model, len(subject.tokens))
    if way == "smallest entries":
        found = graphprune.sparsify(
            str(subject.path), sparsity=share, only=(table.name,), bench=False
        )
        return {**subject.quality(found.model), "hit": None}
    gone = row_order(subject, way)[: round(share * len(subject.tokens))]
    mask = np.zeros(table.shape, bool)
    mask[gone] = True
    SparsifyPass({table.name: Mask.of(mask)})(model)
    hit = sum(subject.counts[int(i)] for i in gone) / subject.counts.total()
    return {**subject.quality(model), "hit": hit}


ROW_WAYS = ("smallest entries", "longest tokens", "rarest tokens", "random tokens")


def jobs(subject: Subject, samples: int, seeds: int) -> Iterator[Job]:
    """Everything, cheap things first; more than one seed where calibration inputs choose."""
    name = subject.name
    yield f"{name} | original", lambda: dict(subject.quality(subject.path))
    for way in ROW_WAYS:
        for part in ROW_SHARES:
            yield f"{name} | rows | {way} | {part:g}", partial(rows, subject, way, part)
    for scope in ("global", "local"):
        for sparsity in SPARSITIES:
            key = f"{name} | single | all | {scope} | {sparsity:g}"
            yield key, partial(single, subject, sparsity, scope, ())
    depth = len(encoder(read(subject.path))) // len(ROLES)
    for share in EQUAL_SHARES:
        for way, options in WAYS.items():
            if possible(options(share), depth):
                run = partial(structured, subject, samples, 0, {**CHEAP, **options(share)})
                yield f"{name} | alone | {way} | {share}", run
    for share in BOTH_SHARES:
        yield f"{name} | both | {share}", partial(beside_single, subject, samples, share)
    for seed in range(seeds):
        for criterion in CRITERIA:
            given = {"channels": float(1 - CRITERIA_SHARE), "criterion": criterion}
            key = f"{name} | criterion | {criterion} | {seed}"
            yield key, partial(structured, subject, samples, seed, given)
    for scope in ("global", "local"):
        for sparsity in SPARSITIES:
            key = f"{name} | single | encoder | {scope} | {sparsity:g}"
            yield key, partial(single, subject, sparsity, scope, (EMBEDDINGS,))
