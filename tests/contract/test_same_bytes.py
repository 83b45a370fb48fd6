"""The same input and plan give the same bytes, whatever the process, its hash seed or the route."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS

import graphprune
from graphprune.onnx.save import save
from graphprune.plan import Plan
from models_zoo.builders import micrographs

SETTINGS = {"channels": 0.5, "align": 1, "bench": False, "verify": False}

CHILD = """
import sys
import graphprune
from graphprune.onnx.save import save
for name in sys.argv[3:]:
    result = graphprune.compile(f"{sys.argv[1]}/{name}.onnx", channels=0.5, align=1, bench=False,
                                head_dims=0.5, verify=False)
    save(result.model, f"{sys.argv[2]}/{name}.onnx")
    result.plan.save(f"{sys.argv[2]}/{name}.plan.json")
"""


def test_two_processes_with_different_hash_seeds(tmp_path: Path) -> None:
    names = ["encoder", "shufflenet", "c2f", "speech", "tied_embedding", "grouped_conv"]
    for name in names:
        build = NETWORKS.get(name) or (lambda name=name: micrographs.build(name))
        onnx.save(build(), tmp_path / f"{name}.onnx")
    for seed in ("0", "12345"):
        (tmp_path / seed).mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, str(tmp_path), str(tmp_path / seed), *names]
        subprocess.run(command, check=True, env=environment)
    for name in names:
        for file in (f"{name}.onnx", f"{name}.plan.json"):
            first, second = ((tmp_path / seed / file).read_bytes() for seed in ("0", "12345"))
            assert first == second, file


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_plan_save_load_apply(name: str, tmp_path: Path) -> None:
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    onnx.save(build(), tmp_path / "m.onnx")
    dims = {"time": 9} if name == "encoder" else {}
    first = graphprune.compile(tmp_path / "m.onnx", **SETTINGS, dims=dims)
    first.plan.save(tmp_path / "p.json")
    save(first.model, tmp_path / "a.onnx")
    plan = Plan.load(tmp_path / "p.json")
    assert plan.sha256 == first.plan.sha256
    again = graphprune.compile(tmp_path / "m.onnx", plan=plan, bench=False, verify=False, dims=dims)
    save(again.model, tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_plan_made_at_other_sizes_gives_the_same_bytes(tmp_path: Path) -> None:
    """Sizes of dynamic dimensions that were given to one run need not be given to the next."""
    onnx.save(NETWORKS["encoder"](), tmp_path / "m.onnx")
    written = []
    first = graphprune.compile(tmp_path / "m.onnx", **SETTINGS, dims={"time": 9, "batch": 4})
    for dims in ({"time": 9, "batch": 4}, {"time": 30}, {"batch": 1, "time": 2}):
        again = graphprune.compile(
            tmp_path / "m.onnx", plan=first.plan, bench=False, verify=True, dims=dims
        )
        assert again.report.certificate["status"] == "exact"
        save(again.model, tmp_path / "b.onnx")
        written.append((tmp_path / "b.onnx").read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_sizes_given_for_the_analysis_do_not_get_into_the_graph(name: str) -> None:
    """`--dim` says at which sizes to look; what is written serves all sizes, as before."""
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    names = {d.dim_param for v in build().graph.input for d in v.type.tensor_type.shape.dim}
    graphs = []
    for size in (1, 4):
        dims = dict.fromkeys(names - {""}, size)
        if size == 1 and name == "encoder":
            dims["time"] = 5  # at one step there is nothing to attend to
        result = graphprune.compile(build(), **SETTINGS | {"verify": True}, dims=dims)
        assert result.report.certificate["status"] in ("exact", "statistics")
        graphs.append(ir.to_proto(result.model).graph.SerializeToString(deterministic=True))
    assert graphs[0] == graphs[1]


def test_the_command_line_writes_what_the_function_returns(tmp_path: Path) -> None:
    from graphprune.cli import run

    onnx.save(NETWORKS["speech"](), tmp_path / "m.onnx")
    out, plan, applied = (str(tmp_path / n) for n in ("o.onnx", "p.json", "applied.onnx"))
    model = str(tmp_path / "m.onnx")
    assert (
        run(
            [
                "compile",
                model,
                "-o",
                out,
                "--channels",
                "0.5",
                "--align",
                "1",
                "--no-bench",
                "--save-plan",
                plan,
                "--quiet",
            ]
        )
        == 0
    )
    assert run(["apply", model, plan, "-o", applied, "--quiet"]) == 0
    result = graphprune.compile(model, channels=0.5, align=1, bench=False)
    save(result.model, tmp_path / "function.onnx")
    texts = {(tmp_path / n).read_bytes() for n in ("o.onnx", "applied.onnx", "function.onnx")}
    assert len(texts) == 1
    assert Plan.load(plan).sha256 == result.plan.sha256


def test_compiling_does_not_depend_on_what_was_compiled_before() -> None:
    def text() -> bytes:
        result = graphprune.compile(NETWORKS["speech"](), **SETTINGS)
        return ir.to_proto(result.model).SerializeToString(deterministic=True)

    first = text()
    graphprune.compile(NETWORKS["resnet"](), **SETTINGS)
    assert text() == first
