"""Whoever has the original and the plan can check the pruned model without graphprune."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rebuild_from_plan
from architectures import NETWORKS
from rebuild_from_plan import gathered

import graphprune
from graphprune.onnx.save import save
from models_zoo.builders import micrographs
from models_zoo.builders.checks import feeds

BINDING = {"batch": 2, "time": 9}

#: Their sizes are attributes or literals that the script knows; the others' weights are compared.
REBUILT = ("resnet", "mobilenet", "densenet", "unet", "grouped_conv", "depthwise_multiplier", "glu")
#: Statistics over what is kept cannot be had by masks, so convnext is not among them.
MASKED = [n for n in (*NETWORKS, *micrographs.NAMES) if n != "convnext"]
HEADS = ("encoder", "llama", "unfused_attention")


def build(name: str) -> onnx.ModelProto:
    model: Callable[[], onnx.ModelProto] | None = NETWORKS.get(name)
    return model() if model is not None else micrographs.build(name)


class Files:
    """A model, its plan, what graphprune made of them and what the script made of them."""

    def __init__(self, name: str, folder: Path, **settings: Any) -> None:
        self.model, self.plan = folder / "model.onnx", folder / "plan.json"
        self.pruned, self.masked = folder / "pruned.onnx", folder / "masked.onnx"
        self.rebuilt = folder / "rebuilt.onnx"
        onnx.save(build(name), self.model)
        dims = {"time": 9} if name == "encoder" else {}
        options = {"align": 1, "bench": False, "verify": False, "dims": dims, **settings}
        result = graphprune.compile(self.model, channels=0.5, **options)
        result.plan.save(self.plan)
        save(result.model, self.pruned)
        self.data = json.loads(self.plan.read_text())
        rebuild_from_plan.main(*self.arguments)

    @property
    def arguments(self) -> list[str]:
        return [str(p) for p in (self.model, self.plan, self.masked, self.rebuilt)]


def run(path: Path, names: list[str] | None = None) -> dict[str, np.ndarray]:
    """All outputs, and the named tensors on the way."""
    model = onnx.load(path)
    wanted = feeds(model, BINDING)
    known = {v.name for v in model.graph.output}
    for name in names or ():
        if name not in known:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = [o.name for o in session.get_outputs()]
    return dict(zip(outputs, session.run(None, wanted), strict=True))


@pytest.mark.parametrize(
    ("name", "dims"), [*((n, False) for n in MASKED), *((n, True) for n in HEADS)]
)
def test_every_cut_tensor_equals_the_masked_original(name: str, dims: bool, tmp_path: Path) -> None:
    files = Files(name, tmp_path, head_dims=0.5 if dims else None)
    cuts: dict[str, list[dict]] = {}
    for cut in files.data["tensors"]:
        cuts.setdefault(cut["value"], []).append(cut)
    assert not files.data["statistics_nodes"]
    made = {o for node in onnx.load(files.pruned).graph.node for o in node.output}
    names = sorted(set(cuts) & made)
    masked, pruned = run(files.masked, names), run(files.pruned, names)
    original = run(files.model)
    compared = 0
    for tensor, array in pruned.items():
        expected = gathered(masked[tensor], cuts.get(tensor, []))
        assert expected.shape == array.shape, tensor
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(array, expected, atol=2e-5 * max(scale, 1e-3), err_msg=tensor)
        compared += scale > 1e-3
    assert compared >= max(2, len(names) // 2)
    assert np.abs(original["y"] - pruned["y"]).max() > 1e-3 * np.abs(original["y"]).max()


def test_the_script_stands_alone(tmp_path: Path) -> None:
    """As a program of its own, it imports nothing of graphprune and writes the same files."""
    files = Files("resnet", tmp_path)
    written = [Path(p).read_bytes() for p in (files.masked, files.rebuilt)]
    script = Path(rebuild_from_plan.__file__)
    assert "import graphprune" not in script.read_text()
    assert "from graphprune" not in script.read_text()
    subprocess.run([sys.executable, "-I", str(script), *files.arguments], check=True)
    assert [Path(p).read_bytes() for p in (files.masked, files.rebuilt)] == written


@pytest.mark.parametrize("name", REBUILT)
def test_the_pruned_model_can_be_rebuilt(name: str, tmp_path: Path) -> None:
    files = Files(name, tmp_path)
    rebuilt, pruned = run(files.rebuilt), run(files.pruned)
    np.testing.assert_allclose(rebuilt["y"], pruned["y"], rtol=1e-5, atol=1e-6)
    assert np.abs(rebuilt["y"]).max() > 1e-2


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_every_cut_use_of_an_initializer_is_listed(name: str, tmp_path: Path) -> None:
    """Slicing the original's initializers gives the pruned file's, use by use."""
    files = Files(name, tmp_path)
    before, after = onnx.load(files.model).graph, onnx.load(files.pruned).graph
    old = {i.name: onnx.numpy_helper.to_array(i) for i in before.initializer}
    new = {i.name: onnx.numpy_helper.to_array(i) for i in after.initializer}
    nodes = {n.name or n.output[0]: n for n in after.node}
    listed = set()
    for use in files.data["initializers"]:
        array = gathered(old[use["initializer"]], use["cuts"])
        assert use["axes"] == {str(c["axis"]): c["kept"] for c in use["cuts"]}
        found = new[nodes[use["node"]].input[use["input"]]]
        assert (found == array).all()
        listed.add((use["node"], use["input"]))
    for node in before.node:
        same = nodes.get(node.name or node.output[0])
        for i, value in enumerate(node.input):
            unlisted = (node.name or node.output[0], i) not in listed
            if same is not None and unlisted and value in old and old[value].dtype.kind == "f":
                assert same.input[i] == value
                assert (new[value] == old[value]).all()
