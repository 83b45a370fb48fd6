"""The whole line in one process: results, stages, errors with their exit codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import drawn, from_text

import graphprune
from graphprune import pipeline
from graphprune.errors import (
    CertificateError,
    NothingGainedError,
    UnreachableTargetError,
    UnsupportedModelError,
    UsageError,
)
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.stages import read
from models_zoo.builders import micrographs

QUICK = {"bench": False, "align": 1}


def compiled(model: Any, **settings: Any) -> graphprune.Result:
    return graphprune.compile(model, **{**QUICK, **settings})


@pytest.fixture(scope="module")
def resnet() -> graphprune.Result:
    return graphprune.compile(NETWORKS["resnet"](), channels=0.5, align=8, allow_slower=True)


def test_the_result_holds_model_plan_and_report(resnet: graphprune.Result) -> None:
    assert isinstance(resnet.model, ir.Model)
    assert isinstance(resnet.plan, Plan)
    report = resnet.report
    assert report.plan_sha256 == resnet.plan.sha256
    assert report.certificate["status"] == "exact"
    assert report.pruned.params < report.original.params
    assert report.latency is not None
    assert report.latency.threads == 1
    assert report.original.latency_ms > 0
    assert report.source == "model in memory"
    stamps = resnet.model.metadata_props
    assert stamps["graphprune.plan_sha256"] == resnet.plan.sha256
    assert stamps["graphprune.version"] == graphprune.__version__


def test_every_stage_is_timed_in_order(resnet: graphprune.Result) -> None:
    names = [
        "load",
        "run",
        "shorten",
        "survey",
        "aim",
        "decide",
        "rewrite",
        "certify",
        "compensate",
        "measure",
    ]
    names += ["distill", "evaluate", "report"]
    assert list(resnet.report.timings_s) == names
    assert [name for name, _ in pipeline.STAGES] == names
    assert all(s >= 0 for s in resnet.report.timings_s.values())


def test_progress_hears_every_stage_and_shares() -> None:
    heard: list[tuple[Any, ...]] = []
    compiled(NETWORKS["speech"](), channels=0.5, progress=lambda *a: heard.append(a))
    names = [h[0] for h in heard]
    assert [n for n in dict.fromkeys(names) if n in dict(pipeline.STAGES)] == list(
        dict(pipeline.STAGES)
    )
    shares = [h[1] for h in heard if h[0] == "certify" and len(h) > 1]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_options_as_object_or_as_keywords() -> None:
    options = Options(channels=0.5, **QUICK)
    one = graphprune.compile(NETWORKS["speech"](), options)
    two = graphprune.compile(NETWORKS["speech"](), channels=0.5, **QUICK)
    assert one.plan.sha256 == two.plan.sha256
    three = graphprune.compile(NETWORKS["speech"](), options, channels=0.75)
    assert three.plan.sha256 != one.plan.sha256
    with pytest.raises(TypeError, match="channel"):
        graphprune.compile(NETWORKS["speech"](), channel=0.5)


def test_models_in_memory_in_three_forms(tmp_path) -> None:
    proto = NETWORKS["speech"]()
    onnx.save(proto, tmp_path / "m.onnx")

    class Program:
        model = ir.from_proto(proto)

    plans = [
        compiled(source, channels=0.5).plan
        for source in (
            proto,
            str(tmp_path / "m.onnx"),
            tmp_path / "m.onnx",
            Program.model,
            Program(),
        )
    ]
    assert len({tuple(len(g.kept) for g in p.groups) for p in plans}) == 1
    assert plans[1].sha256 == plans[2].sha256


def test_a_given_plan_is_applied_and_nothing_is_decided() -> None:
    first = compiled(NETWORKS["speech"](), channels=0.5)
    again = compiled(NETWORKS["speech"](), plan=first.plan)
    assert again.plan is first.plan
    texts = [ir.to_proto(r.model).SerializeToString(deterministic=True) for r in (first, again)]
    assert texts[0] == texts[1]


def test_scores_of_ones_own_decide_who_leaves() -> None:
    model = NETWORKS["speech"]()

    cells: dict[str, Any] = {}

    def first_leave(graph: Any, names: Any) -> dict[str, Any]:
        cells.update({n: graph.by_name[n].cells for n in names})
        return {n: np.arange(graph.by_name[n].size) for n in names}

    found = compiled(model, channels=0.5, scores=first_leave)
    assert found.report.certificate["status"] in ("exact", "statistics")
    for choice in found.plan.groups:
        for cell in cells[choice.name]:
            stay = np.isin(cell, choice.kept)
            assert 0 < stay.sum() < cell.size
            assert stay[np.argsort(cell)][-stay.sum() :].all()


@pytest.mark.parametrize("wrong", [{}, np.ones(3), np.nan])
def test_scores_that_are_none(wrong: Any) -> None:
    def scores(graph: Any, names: Any) -> dict[str, Any]:
        return {} if isinstance(wrong, dict) else dict.fromkeys(names, wrong)

    with pytest.raises(UsageError, match="no finite number for each of the"):
        compiled(NETWORKS["speech"](), channels=0.5, scores=scores)
    with pytest.raises(UsageError, match="in place of a criterion or a plan"):
        compiled(NETWORKS["speech"](), channels=0.5, criterion="l1", scores=scores)


def test_a_plan_of_another_model_is_refused() -> None:
    plan = compiled(NETWORKS["speech"](), channels=0.5).plan
    with pytest.raises(UsageError, match="another model"):
        compiled(NETWORKS["resnet"](), plan=plan)


def test_no_word_on_what_stays() -> None:
    with pytest.raises(UsageError, match="say what stays"):
        compiled(NETWORKS["speech"]())


ERRORS = [
    (UsageError, 2, {"channels": 0.0}, "resnet"),
    (UsageError, 2, {"channels": 0.5, "criterion": "best"}, "resnet"),
    (UsageError, 2, {"channels": 0.5, "only": ("nothing",)}, "resnet"),
    (UsageError, 2, {"channels": 0.5, "provider": "NoSuchProvider"}, "resnet"),
    (UsageError, 2, {"channels": 0.5, "dims": {"no": 3}}, "resnet"),
    (UnreachableTargetError, 5, {"params": 0.001}, "resnet"),
    (NothingGainedError, 6, {"channels": 1.0}, "resnet"),
    (NothingGainedError, 6, {"channels": 0.5, "exclude": ("*",)}, "resnet"),
    (NothingGainedError, 6, {"channels": 0.5, "align": 512}, "resnet"),
]


@pytest.mark.parametrize(("kind", "code", "settings", "name"), ERRORS)
def test_errors_have_their_exit_codes_and_one_line(
    kind: type[Exception], code: int, settings: dict[str, Any], name: str
) -> None:
    with pytest.raises(kind) as error:
        compiled(NETWORKS[name](), **settings)
    assert type(error.value) is kind
    assert error.value.exit_code == code
    assert "\n" not in str(error.value)
    assert len(str(error.value)) > 20


def test_a_model_that_never_ran_is_blamed_itself() -> None:
    proto = from_text(
        "h = MatMul (x, w) y = Reshape (h, s)", {"w": drawn(8, 6)}, outputs="float[A, B] y"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5, -1]), "s"))
    with pytest.raises(UnsupportedModelError, match="onnxruntime cannot run"):
        compiled(proto, channels=0.5)


def test_nothing_to_prune_says_why() -> None:
    cases = {
        "Softmax": from_text("h = MatMul (x, w) y = Softmax (h)", {"w": drawn(8, 6)}),
        "weight": from_text("y = Relu (x)", {}, outputs="float[N, 8] y"),
        "was to stay": micrographs.build("glu"),
    }
    for word, model in cases.items():
        ratio = 1.0 if word == "was to stay" else 0.5
        with pytest.raises(NothingGainedError, match=word):
            compiled(model, channels=ratio)


def test_nothing_to_prune_is_allowed_on_request() -> None:
    result = compiled(micrographs.build("glu"), channels=1.0, allow_slower=True)
    assert not result.plan.tensors
    assert result.report.pruned.params == result.report.original.params
    assert result.report.certificate is None


def test_a_wrong_graph_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewriter makes a mistake: the certificate finds it and nothing comes out."""
    from graphprune.passes.prune import PrunePass

    right = PrunePass.call

    def wrong(self: PrunePass, model: ir.Model) -> ir.passes.PassResult:
        result = right(self, model)
        value = model.graph.initializers["conv2.weight"]
        array = value.const_value.numpy().copy()
        value.const_value = ir.tensor(array[:, ::-1].copy(), name="conv2.weight")
        return result

    monkeypatch.setattr(PrunePass, "call", wrong)
    with pytest.raises(CertificateError, match="conv2") as error:
        compiled(micrographs.build("grouped_conv"), channels=0.5)
    assert error.value.exit_code == 4


def test_slower_results_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.measure import latency

    real = latency.compare_latency
    swapped = lambda a, b, *rest, **more: real(b, a, *rest, **more)  # noqa: E731
    monkeypatch.setattr(latency, "compare_latency", swapped)
    model = heavy()
    with pytest.raises(NothingGainedError, match="slower than the original") as error:
        graphprune.compile(model, channels=0.25, align=16)
    assert error.value.exit_code == 6
    assert "--allow-slower" in str(error.value)
    result = graphprune.compile(model, channels=0.25, align=16, allow_slower=True)
    assert result.report.speedup is None or result.report.speedup < 1


def heavy() -> onnx.ModelProto:
    """Large enough that a quarter of it is faster beyond doubt."""
    body = "h = MatMul (x, w) r = Relu (h) g = MatMul (r, u) s = Relu (g) y = MatMul (s, v)"
    weights = {"w": drawn(8, 1024), "u": drawn(1024, 1024), "v": drawn(1024, 4)}
    return from_text(body, weights)


def test_without_verification_there_is_no_certificate() -> None:
    result = compiled(NETWORKS["speech"](), channels=0.5, verify=False)
    assert result.report.certificate is None
    assert result.report.latency is None


def test_verify_needs_the_plan_and_finds_a_wrong_graph() -> None:
    proto = micrographs.build("glu")
    result = compiled(proto, channels=0.5)
    with pytest.raises(UsageError, match="needs the plan"):
        graphprune.verify(proto, result.model)
    assert graphprune.verify(proto, result.model, plan=result.plan).status == "exact"
    with pytest.raises(UsageError, match="another model"):
        graphprune.verify(micrographs.build("c2f"), result.model, plan=result.plan)
    value = result.model.graph.initializers["conv1.bias"]
    value.const_value = ir.tensor(value.const_value.numpy() + 1, name="conv1.bias")
    assert graphprune.verify(proto, result.model, plan=result.plan).status == "failed"


def test_very_large_models_are_not_run_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "RUN_LIMIT", 1)
    result = graphprune.compile(NETWORKS["speech"](), channels=0.5, align=1)
    assert result.report.latency is None
    assert any("too large" in w for w in result.report.warnings)
    assert result.report.certificate["status"] == "exact"
