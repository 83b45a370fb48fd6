"""Padded samples in batches of their own length, whatever they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from workbench import drawn, from_text

from graphprune.data.feeds import Batch, read_calibration
from graphprune.data.padding import TURN, in_turns
from graphprune.onnx.load import load


def model(length: str = "S") -> ir.Model:
    proto = from_text(
        "e = Gather (table, ids) f = Cast <to = 1> (attention_mask) m = Unsqueeze (f, last)"
        " h = Mul (e, m) y = MatMul (h, w)",
        {"table": drawn(200, 6), "last": np.array([-1]), "w": drawn(6, 4)},
        inputs=f"int64[N, {length}] ids, int64[N, {length}] attention_mask",
        outputs=f"float[N, {length}, 4] y",
    )
    return load(proto).model


def texts(lengths: list[int], width: int) -> dict[str, np.ndarray]:
    """Text i is `i + 1` as often as it is long."""
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return {"ids": mask * np.arange(1, len(lengths) + 1)[:, None], "attention_mask": mask}


def everything(batches: list[Batch]) -> dict[int, int]:
    """Text -> its length."""
    return {int(ids[0]): int((ids > 0).sum()) for b in batches for ids in b.feeds["ids"]}


def test_padded_arrays_share_batches_by_length(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 41, 128).tolist()
    np.savez(tmp_path / "data.npz", **texts(lengths, 50))
    found = read_calibration(tmp_path / "data.npz", model(), 128)
    batches = [*found.fit, *found.choose, *found.judge]
    assert [b.samples for b in batches] == [8] * 16
    assert everything(batches) == {i + 1: n for i, n in enumerate(lengths)}
    cells = sum(b.feeds["attention_mask"].size for b in batches)
    assert cells < 1.1 * sum(lengths)
    means = [
        np.mean([b.feeds["ids"].shape[1] for b in part])
        for part in (found.fit, found.choose, found.judge)
    ]
    assert max(means) - min(means) < 8  # of 1 to 40


def test_what_is_not_padded_behind_stays_as_it_is(tmp_path: Path) -> None:
    lengths = [3, 9, 1, 7] * 16
    left = {n: a[:, ::-1] for n, a in texts(lengths, 9).items()}
    whole = texts([9] * 64, 9)
    for given in (left, whole):
        found = read_calibration(dict(given), model(), 64)
        batches = [*found.fit, *found.choose, *found.judge]
        assert {b.feeds["ids"].shape for b in batches} == {(8, 9)}
        assert [int(b.feeds["ids"][0, -1]) for b in found.fit] == [1, 9, 17, 33, 41]
    fixed = read_calibration(texts(lengths, 9), model("9"), 64)
    assert {b.feeds["ids"].shape for b in fixed.fit} == {(8, 9)}


def test_lengths_go_up_and_down() -> None:
    batches = in_turns([*range(40), *range(40)], lambda n: n, 2)
    first = [b[0] for b in batches]
    up, down = [*range(2 * TURN)], [*reversed(range(TURN, 4 * TURN))]
    assert first[:TURN] == up[:TURN]
    assert first[TURN : 2 * TURN] == down[2 * TURN :]
    assert first[3 * TURN :] == [*down[:TURN], *range(4 * TURN, 40)]
