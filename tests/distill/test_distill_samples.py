"""Batches of training steps: stacked, bucketed by length, padding masked."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

torch = pytest.importorskip("torch")

from graphprune.data.feeds import Batch  # noqa: E402
from graphprune.data.padding import find_padding  # noqa: E402
from graphprune.distill.matches import find_matches  # noqa: E402
from graphprune.distill.samples import make_steps  # noqa: E402
from graphprune.distill.teacher import Teacher, spread  # noqa: E402
from graphprune.onnx.canonical import canonicalise  # noqa: E402
from graphprune.onnx.load import load  # noqa: E402
from graphprune.plan import Plan  # noqa: E402

TEXT = "int64[N, S] ids, int64[N, S] attention_mask, int64[N, S] kinds"


def text_model() -> ir.Model:
    proto = from_text(
        "e = Gather (table, ids) f = Cast <to = 1> (attention_mask) m = Unsqueeze (f, last)"
        " h = Mul (e, m) y = MatMul (h, w)",
        {"table": drawn(20, 6), "last": np.array([-1]), "w": drawn(6, 4)},
        inputs=TEXT,
        outputs="float[N, S, 4] y",
    )
    return canonicalise(load(proto).model)


def texts(lengths: list[int], width: int) -> Batch:
    ids = np.zeros((len(lengths), width), np.int64)
    mask = np.zeros_like(ids)
    for i, n in enumerate(lengths):
        ids[i, :n], mask[i, :n] = np.arange(1, n + 1), 1
    kinds = np.zeros_like(ids)
    return Batch({"ids": ids, "attention_mask": mask, "kinds": kinds}, len(lengths))


def test_texts_share_a_batch_with_texts_of_their_length() -> None:
    model = text_model()
    batches = [texts([9, 2, 8, 3], 12), texts([2, 9], 12)]
    padding = find_padding(model, [b.feeds for b in batches])
    assert padding is not None
    assert padding.mask == "attention_mask"
    assert padding.inputs == {"ids", "attention_mask", "kinds"}
    steps = make_steps(model, batches, 3, padding)
    assert [s[0].feeds["ids"].shape for s in steps] == [(3, 3), (3, 9)]
    short = steps[0][0]
    assert short.mask is not None
    assert short.mask.tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert short.feeds["ids"].tolist() == [[1, 2, 0], [1, 2, 0], [1, 2, 3]]
    assert sum(g.samples for s in steps for g in s) == 6


def test_a_mask_with_holes_at_the_start_or_other_numbers_is_none() -> None:
    model = text_model()
    batch = texts([3, 4], 4)
    batch.feeds["attention_mask"][0, 0] = 0
    assert find_padding(model, [batch.feeds]) is None
    batch.feeds["attention_mask"][0, 0] = 2
    assert find_padding(model, [batch.feeds]) is None


def test_a_fixed_batch_runs_one_by_one() -> None:
    proto = from_text(
        "y = MatMul (x, w)", {"w": drawn(8, 4)}, inputs="float[2, 8] x", outputs="float[2, 4] y"
    )
    batches = [Batch({"x": drawn(2, 8, seed=i)}, 2) for i in range(6)]
    steps = make_steps(canonicalise(load(proto).model), batches, 64, None)
    assert [len(s) for s in steps] == [4, 2]
    assert all(g.feeds["x"].shape == (2, 8) for s in steps for g in s)


def test_padding_does_not_count_in_the_variance() -> None:
    model = text_model()
    matches = find_matches(model, model, Plan("", (), {}, (), binding={"N": 2, "S": 3}))
    assert [m.name for m in matches if m.output] == ["y"]
    batches = [texts([4, 3, 2, 4], 4)]
    (step,) = make_steps(model, batches, 4, find_padding(model, [b.feeds for b in batches]))
    teacher = Teacher(model, matches, torch.device("cpu"))
    found = spread(teacher, matches, [("a", step[0])])["y"]
    y = teacher.targets("a", step[0])["y"].numpy()
    assert step[0].mask is not None
    real = y[step[0].mask > 0]
    assert len(real) == 13
    assert found == pytest.approx(real.var(0).mean(), rel=1e-4)
    assert found > 1.05 * y.reshape(-1, 4).var(0).mean()


def test_what_does_not_fit_into_memory_is_computed_again() -> None:
    model = text_model()
    matches = find_matches(model, model, Plan("", (), {}, (), binding={"N": 2, "S": 3}))
    (step,) = make_steps(model, [texts([4, 3], 4)], 4, None)
    small = Teacher(model, matches, torch.device("cpu"), memory=10)
    large = Teacher(model, matches, torch.device("cpu"))
    for teacher, kept in ((small, False), (large, True)):
        one, two, three = (teacher.targets("a", step[0])["y"] for _ in range(3))
        assert torch.equal(one, two)
        assert torch.equal(one, three)
        assert (two.data_ptr() == three.data_ptr()) == kept


def test_lengths_that_are_taken_for_channels_do_not_stop_the_variance() -> None:
    """`y` is transposed: the last axis is a length, and other in each feed."""
    proto = from_text(
        "h = MatMul (x, w) y = Transpose <perm = [0, 2, 1]> (h)",
        {"w": drawn(6, 4)},
        inputs="float[1, S, 6] x",
        outputs="float[1, 4, S] y",
    )
    model = canonicalise(load(proto).model)
    matches = find_matches(model, model, Plan("", (), {}, (), binding={"S": 5}))
    batches = [Batch({"x": drawn(1, n, 6, seed=n, fan_in=1)}, 1) for n in (5, 7, 6)]
    (step,) = make_steps(model, batches, 4, None)
    teacher = Teacher(model, matches, torch.device("cpu"))
    found = spread(teacher, matches, list(enumerate(step)))["y"]
    every = np.concatenate([teacher.targets(i, g)["y"].numpy().ravel() for i, g in enumerate(step)])
    assert found == pytest.approx(every.var(), rel=1e-4)


def test_channels_of_convolutions_are_the_second_axis() -> None:
    proto = from_text(
        "h = Conv <pads = [1, 1]> (x, w) y = Relu (h)",
        {"w": drawn(6, 4, 3)},
        inputs="float[N, 4, 9] x",
        outputs="float[N, 6, 9] y",
    )
    model = canonicalise(load(proto).model)
    matches = find_matches(model, model, Plan("", (), {}, (), binding={"N": 2}))
    assert {m.name: m.axis for m in matches} == {"y": 1, "h": 1}


def test_in_front_of_a_global_maximum_the_maximum_is_matched() -> None:
    proto = from_text(
        "h = Conv (x, w) r = Relu (h) m = GlobalMaxPool (r) f = Flatten (m) y = MatMul (f, v)",
        {"w": drawn(6, 4, 3), "v": drawn(6, 5)},
        inputs="float[N, 4, 9] x",
        outputs="float[N, 5] y",
    )
    model = canonicalise(load(proto).model)
    matches = find_matches(model, model, Plan("", (), {}, (), binding={"N": 2}))
    assert {m.name: m.output for m in matches} == {"y": True, "m": False}
