"""The shipped models run, score what the table says, and travel in the wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphprune import zoo
from graphprune.errors import UsageError
from graphprune.zoo import inputs, metrics

ROOT = Path(__file__).parents[2]


def test_unknown_names_are_refused_with_the_list() -> None:
    with pytest.raises(UsageError, match="resnet-fashion") as caught:
        zoo.get("resnet-nothing")
    assert "\n" not in str(caught.value)


def test_the_prefix_is_optional() -> None:
    assert zoo.get("zoo:silero-vad") is zoo.get("silero-vad")


@pytest.mark.parametrize("name", zoo.names())
def test_the_recorded_baseline_is_what_the_model_scores(name: str) -> None:
    entry = zoo.get(name)
    assert entry.evaluate_file() == pytest.approx(entry.baseline, abs=2e-3)


@pytest.mark.parametrize("name", zoo.names())
def test_a_broken_model_scores_worse(name: str) -> None:
    entry = zoo.get(name)
    model = onnx.load(entry.path)
    outputs = {v.name for v in model.graph.output}
    session_outputs = len(outputs)

    def silent(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        rows = len(next(iter(feeds.values())))
        width = 2 if entry.metric == "accuracy" else 1
        constant = np.zeros((rows, width), np.float32)
        return [constant if width > 1 else constant[:, 0]] * session_outputs

    assert entry.evaluate(silent) < entry.baseline - 0.2


@pytest.mark.parametrize("name", zoo.names())
def test_outputs_may_come_by_name(name: str) -> None:
    import onnxruntime

    entry = zoo.get(name)
    session = onnxruntime.InferenceSession(entry.path, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    data = {k: v[:40000] for k, v in entry.evaluation().items()}
    if entry.metric == "AUC":
        data["labels"] = data["labels"][: len(data["audio"]) // inputs.FRAME]
    else:
        data = {k: v[:50] for k, v in data.items()}
    by_name = entry.evaluate(lambda f: dict(zip(names, session.run(None, f), strict=True)), data)
    assert by_name == entry.evaluate(lambda f: session.run(None, f), data)


@pytest.mark.parametrize("name", zoo.names())
def test_calibration_inputs_fit_the_model_and_are_not_the_evaluation_set(name: str) -> None:
    import onnxruntime

    entry = zoo.get(name)
    session = onnxruntime.InferenceSession(entry.path, providers=["CPUExecutionProvider"])
    batches = entry.calibration()
    assert {v.name for v in session.get_inputs()} == set(batches[0])
    assert np.isfinite(np.asarray(session.run(None, batches[0])[0])).all()
    key = next(iter(batches[0]))
    seen = {row.tobytes() for feeds in entry.batches(entry.evaluation()) for row in feeds[key]}
    fresh = [row.tobytes() not in seen for feeds in batches for row in feeds[key]]
    assert np.mean(fresh) > 0.99


@pytest.mark.parametrize("name", zoo.names())
def test_files_are_small_and_name_no_folder_of_the_maker(name: str) -> None:
    entry = zoo.get(name)
    assert entry.path.stat().st_size < 3_000_000
    assert (entry.path.parent / entry.data).stat().st_size <= 1_000_000
    assert (entry.path.parent / entry.unlabelled).stat().st_size <= 1_000_000
    texts = [e.value for n in onnx.load(entry.path).graph.node for e in n.metadata_props]
    assert not [t for t in texts if re.search(r"/\w+/\w+.*\.py", t)]


def test_auc_counts_ties_by_half() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.9])
    labels = np.array([0, 0, 1, 1])
    assert metrics.auc(scores, labels) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert metrics.auc(-scores, labels) == pytest.approx(1 - 3.5 / 4)


def test_mu_law_returns_the_signal_to_its_precision() -> None:
    signal = np.linspace(-1, 1, 1001)
    back = inputs.expand(inputs.compress(signal))
    assert np.abs(back - signal).max() < 0.025
    assert np.abs(back - signal)[450:551].max() < 0.003


def test_a_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    options = ["--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    code = (
        "import sys; from graphprune import zoo; e = zoo.get('silero-vad'); "
        "assert e.path.is_relative_to(sys.argv[1]), e.path; print(e.evaluate_file()); "
        "assert not {'torch', 'models_zoo'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(unpacked)],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(unpacked), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert float(run.stdout) == pytest.approx(zoo.get("silero-vad").baseline, abs=2e-3)
