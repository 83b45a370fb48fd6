"""What pruning of single weights costs a zoo model in accuracy, without training.

    python -m tools.sparse_accuracy                      # resnet-fashion
    python -m tools.sparse_accuracy text-angle --exclude 'conv1*'

Prints one row a sparsity, one column a way to choose, then N:M patterns. Data-driven scores see the
entry's calibration inputs, the accuracy is on its evaluation set.
"""

from __future__ import annotations

import argparse
from typing import Any

from graphprune import sparsify
from graphprune.onnx.runtime import Session
from graphprune.zoo import get

WAYS: dict[str, dict[str, Any]] = {
    "magnitude, global": {},
    "magnitude, local": {"scope": "local"},
    "l2, global": {"criterion": "l2"},
    "wanda, global": {"criterion": "wanda"},
    "wanda, local": {"criterion": "wanda", "scope": "local"},
    "magnitude, sensitivity": {"scope": "sensitivity"},
    "taylor, global": {"criterion": "taylor"},
    "fisher, global": {"criterion": "fisher"},
    "random, global": {"criterion": "random"},
}
SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.8)
PATTERNS = ("2:4", "4:8", "1:4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("entry", nargs="?", default="resnet-fashion")
    parser.add_argument(
        "--exclude", default="conv1.weight", help="of patterns: what they do not divide"
    )
    given = parser.parse_args()
    entry = get(given.entry)
    data, feeds = entry.evaluation(), entry.calibration()

    def accuracy(**settings: Any) -> float:
        looks = settings.get("criterion") in ("wanda", "taylor", "fisher")
        looks = looks or settings.get("scope") == "sensitivity"
        calib = feeds if looks else None
        result = sparsify(entry.path, calib=calib, bench=False, **settings)
        with Session(result.model) as session:
            return 100 * float(entry.evaluate(session.run, data))

    print(f"| zeros | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 1)}")
    for share in SPARSITIES:
        row = [f"{accuracy(sparsity=share, **way):.1f}" for way in WAYS.values()]
        print(f"| {share:.0%} | {' | '.join(row)} |", flush=True)
    for pattern in PATTERNS:
        two = [
            f"{accuracy(pattern=pattern, criterion=c, exclude=given.exclude):.1f}"
            for c in ("magnitude", "wanda")
        ]
        print(f"{pattern}: magnitude {two[0]}, wanda {two[1]}", flush=True)


if __name__ == "__main__":
    main()
