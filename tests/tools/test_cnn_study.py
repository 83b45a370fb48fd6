"""The study of CNNs on a small setting: what it measures, what it keeps, what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from fashion_files import write_fashion

from graphprune import zoo
from graphprune.errors import UsageError
from tools import cnn_page, cnn_study
from tools.cnn_filters import Filters, costs

SMALL = ["--epochs", "1", "--train", "256", "--images", "200", "--probe-images", "50"]
SMALL += ["--kept", "0.5", "--seeds", "0", "--large", "--unscored"]
MARKS = ("summary", "layers", "criteria", "sensitivity", "correlations", "environment")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 fitted to, 1,000 held out, 200 scored."""
    return write_fashion(tmp_path_factory.mktemp("fashion"), 1256, 200)


def page(path: Path) -> Path:
    path.write_text("# Title\n\n" + "\n".join(f"<!-- {m} -->\n<!-- /{m} -->" for m in MARKS))
    return path


@pytest.fixture(scope="module")
def study(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("study")
    patch = pytest.MonkeyPatch()
    patch.setattr(cnn_study, "OWN", ("filter zeros",))
    patch.setattr(cnn_study, "WEIGHTS", ())
    patch.setattr(cnn_study, "DATA", ("energy",))
    patch.setattr(cnn_study, "FRACTIONS", (0.5,))
    patch.setattr(cnn_study, "CALIBRATED", 64)
    page(folder / "cnn.md")
    arguments = ["--folder", str(folder), "--data", str(data), *SMALL]
    found = cnn_study.main([*arguments, "--page", str(folder / "cnn.md")])
    patch.undo()
    return found, folder


def test_a_refit_gives_back_what_the_cut_took(study: tuple[dict[str, Any], Path]) -> None:
    records, _ = study
    assert records["original | resnet-fashion"]["accuracy"] > 0.85
    for criterion in ("filter zeros", "energy"):
        record = records[f"filters | resnet-fashion | {criterion} | 0.5 | 0"]
        assert record["refitted"] > record["as cut"] + 0.2
        assert record["macs"] == pytest.approx(0.25, abs=0.01)
    layers = records["layers | resnet-fashion"]
    assert len(layers["measurements"]) == len(layers["facts"]) == 9
    assert all(m["folded"] < m["damage"] for m in layers["measurements"])


def test_fully_connected_layers_hold_the_parameters(study: tuple[dict[str, Any], Path]) -> None:
    layers = study[0]["costs | plain"]
    kinds = {
        what: sum(each[what] for each in layers if not each["convolution"])
        / sum(each[what] for each in layers)
        for what in ("params", "macs")
    }
    assert kinds["params"] > 0.9
    assert kinds["macs"] < 0.2
    assert len(layers) == 7


def test_costs_of_a_convolution_by_hand() -> None:
    value = onnx.helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "conv.weight")
    bias = onnx.numpy_helper.from_array(np.ones(4, np.float32), "conv.bias")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["y"], pads=[1] * 4)],
        "one",
        [value("x", onnx.TensorProto.FLOAT, ["n", 3, 5, 5])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 4, 5, 5])],
        [weight, bias],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    (layer,) = costs(model)
    assert layer["layer"] == "conv"
    assert (layer["params"], layer["macs"]) == (4 * 27 + 4, 4 * 27 * 25)


def test_scores_of_filters() -> None:
    net = Filters.of(zoo.get("resnet-fashion").path)
    group = net.graph.by_name["stages.0.bn1"]
    weight = net.arrays["stages.0.conv1.weight"].astype(np.float64)
    norms = np.abs(weight).reshape(32, -1).sum(1)
    found = net.scores("filter L1")(net.graph, [group.name])[group.name]
    assert found == pytest.approx(norms / norms.mean())
    zeros = net.scores("filter zeros")(net.graph, [group.name])[group.name]
    stay = np.abs(weight) > np.median(np.abs(weight))
    assert zeros == pytest.approx(2 * stay.reshape(32, -1).mean(1), abs=0.02)
    shares = net.shares(group)
    rms = np.sqrt((weight**2).mean())
    assert shares["near-zero weights"] == pytest.approx((np.abs(weight) < 0.1 * rms).mean())
    assert shares["sparse filters"] == pytest.approx((norms < norms.mean() / 2).mean())
    smaller = [g.name for g in net.graph.groups if net.read_smaller(g)]
    assert smaller == ["bn1", "stages.2.bn2"]  # the trunks in front of the two strided blocks


def test_the_page(study: tuple[dict[str, Any], Path]) -> None:
    records, folder = study
    text = (folder / "cnn.md").read_text()
    accuracy = 100 * records["filters | plain | energy | 0.5 | 0"]["refitted"]
    row = next(line for line in text.split("`plain`, ")[1].splitlines() if "| energy" in line)
    assert row.endswith(f"| {accuracy:.1f} |")
    assert "stages.5.bn1 | channel | 128 |" in text
    pictures = sorted(folder.glob("*.svg"))
    assert [p.name for p in pictures] == ["cnn-criteria.svg", "cnn-layers.svg", "cnn-sparse.svg"]
    before = [p.read_bytes() for p in pictures]
    cnn_page.write(records, folder / "cnn.md")
    assert (folder / "cnn.md").read_text() == text
    assert [p.read_bytes() for p in pictures] == before


def test_what_is_measured_is_not_measured_again(
    study: tuple[dict[str, Any], Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, folder = study
    for name in ("by_criterion", "by_layer", "costs"):
        monkeypatch.setattr(cnn_study, name, lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(cnn_study, "OWN", ("filter zeros",))
    monkeypatch.setattr(cnn_study, "WEIGHTS", ())
    monkeypatch.setattr(cnn_study, "DATA", ("energy",))
    arguments = ["--folder", str(folder), "--data", str(data)]
    assert cnn_study.main([*arguments, *SMALL]) == records
    with pytest.raises(SystemExit):
        cnn_study.main([*arguments, *SMALL, "--images", "100"])


def test_a_page_without_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no place <!-- summary"):
        cnn_page.filled("# Title\n", "summary", "x")
    with pytest.raises(UsageError, match="cannot read"):
        cnn_page.write({}, tmp_path / "none.md")


def test_rank_correlations_of_few() -> None:
    up = [1.0, 2.0, 3.0, 4.0, 5.0]
    rho, p = cnn_page.rank_correlation(up, [10, 20, 30, 40, 50])
    assert rho == pytest.approx(1)
    assert p == pytest.approx(2 / 120, rel=0.01)  # this order and its reverse, of all 120
    rho, p = cnn_page.rank_correlation(up, [2, 5, 1, 4, 3])
    assert abs(rho) < 0.2
    assert p > 0.5
