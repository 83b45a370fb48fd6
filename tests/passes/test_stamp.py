"""What made a model stands in its metadata, and nothing else of the metadata changes."""

from __future__ import annotations

import numpy as np
from workbench import drawn, from_text

import graphprune
from graphprune.cut import Cut
from graphprune.onnx.load import load
from graphprune.passes.stamp import StampPass
from graphprune.plan import Plan


def test_three_keys_are_added_and_the_rest_stays() -> None:
    proto = from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})
    proto.producer_name, proto.producer_version, proto.doc_string = "maker", "1.2", "a text"
    proto.model_version = 7
    for key, value in (("author", "somebody"), ("graphprune.version", "old")):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    model = load(proto).model
    plan = Plan("source", (), {"y": (Cut(1, 4, np.array([0])),)}, ())
    assert StampPass(plan)(model).modified
    assert model.metadata_props == {
        "author": "somebody",
        "graphprune.version": graphprune.__version__,
        "graphprune.plan_sha256": plan.sha256,
        "graphprune.source_sha256": "source",
    }
    assert (model.producer_name, model.producer_version) == ("maker", "1.2")
    assert (model.model_version, model.doc_string) == (7, "a text")


def test_another_plan_gives_another_stamp() -> None:
    plans = [Plan("s", (), {"y": (Cut(1, 4, np.array([i])),)}, ()) for i in range(2)]
    models = [load(from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})).model for _ in plans]
    for plan, model in zip(plans, models, strict=True):
        StampPass(plan)(model)
    stamps = {m.metadata_props["graphprune.plan_sha256"] for m in models}
    assert len(stamps) == 2
