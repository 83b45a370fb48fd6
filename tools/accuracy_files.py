"""Magika on files of this machine: two cases that differ in which files are free to calibrate with."""

from __future__ import annotations

import json
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from graphprune.onnx.runtime import Session
from graphprune.zoo import metrics
from tools import real_data
from tools.accuracy_case import Case, Feeds, Run, Scores, in_batches, joined, stored
from tools.real_data import LabelledFile

ROOTS = tuple(Path(p) for p in ("/usr/share", "/usr/include", "/usr/lib", "/etc"))
EACH, EACH_ENDING = 60, 200
"""At most so many files of one type, and of one ending where the type is not asked for."""

KNOWN = 12
"""Files of a type among all that calibration draws from: of fewer, 512 hold less than four, on average."""


def magika(packages: Path, cache: Path) -> Case:
    """What type a file is; which files is decided once, in the cache. Folders that are scored are others
    than those of calibration, and hold types that these do not."""
    return _case(packages, cache, "magika", apart=True)


def magika_same_folders(packages: Path, cache: Path) -> Case:
    """The same, for a user whose calibration files are of the kind that is asked about: of each type one
    half is free and the other scored, in whatever folders they lie."""
    return _case(packages, cache, "magika-same-folders", apart=False)


def _case(packages: Path, cache: Path, name: str, *, apart: bool) -> Case:
    config = packages / "magika/models/standard_v3_3/config.min.json"
    labels: list[str] = json.loads(config.read_text())["target_labels_space"]
    roots = (Path(sysconfig.get_paths()["purelib"]), *ROOTS)

    def make() -> dict[str, np.ndarray]:
        kinds = packages / "magika/config/content_types_kb.min.json"
        found = list(real_data.files(roots, kinds, labels))
        order = [found[i] for i in np.random.default_rng(0).permutation(len(found))]
        scored, free = [], []
        for file, is_scored in halves(order, apart=apart):
            (scored if is_scored else free).append(file)
        return {
            "scored": np.stack([real_data.head_and_tail(f.path) for f in scored]),
            "labels": np.array([labels.index(f.label) for f in scored]),
            "free": np.stack([real_data.head_and_tail(f.path) for f in free]),
        }

    data = stored(cache / f"{name}.npz", make)

    def make_more() -> dict[str, np.ndarray]:
        """Files of any kind, known or not, for those who ask for more than are known."""
        found = list(real_data.unlabelled_files(roots, both_halves=not apart))
        scored = {row.tobytes() for row in data["scored"]}
        counts: Counter[str] = Counter()
        rows = []
        for i in np.random.default_rng(0).permutation(len(found)):
            path, ending = found[i]
            counts[ending] += 1
            row = real_data.head_and_tail(path)
            if counts[ending] <= EACH_ENDING and row.tobytes() not in scored:
                rows.append(row)
        return {"free": np.stack(rows)}

    def calibrate(seed: int, count: int) -> list[Feeds]:
        free = data["free"]
        if count > len(free):
            free = stored(cache / f"{name}-more.npz", make_more)["free"]
        order = np.random.default_rng(seed).permutation(len(free))[:count]
        return in_batches(free[order], "bytes", lambda rows: rows)

    def types(run: Run, rows: np.ndarray) -> np.ndarray:
        return joined(run, [{"bytes": rows[i : i + 32]} for i in range(0, len(rows), 32)])

    def make_known() -> dict[str, np.ndarray]:
        """Types that files to calibrate with are of, by what the original says of them."""
        with Session(str(path)) as session:
            found = types(session.run, data["free"]).argmax(1)
        counts = np.bincount(found, minlength=len(labels))
        return {"known": np.flatnonzero(counts >= KNOWN)}

    def score(run: Run) -> Scores:
        found, truth = types(run, data["scored"]), data["labels"]
        known = np.isin(truth, stored(cache / f"{name}-known.npz", make_known)["known"])
        return {
            "accuracy": metrics.accuracy(found, truth),
            "accuracy of known types": metrics.accuracy(found[known], truth[known]),
        }

    path = packages / "magika/models/standard_v3_3/model.onnx"
    return Case(name, "accuracy", 0.956, path, calibrate, score)


def halves(files: list[LabelledFile], *, apart: bool) -> Iterator[tuple[LabelledFile, bool]]:
    """At most `EACH` files of each type and half, and whether that half is scored."""
    counts: Counter[tuple[str, bool]] = Counter()
    for file in files:
        half = file.scored if apart else counts[file.label, True] <= counts[file.label, False]
        counts[file.label, half] += 1
        if counts[file.label, half] <= EACH:
            yield file, half
