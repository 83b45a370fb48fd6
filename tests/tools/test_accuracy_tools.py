"""The accuracy table: its signal processing, its data, one run of each kind, resumed and printed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from graphprune import zoo
from graphprune.zoo import metrics
from tools import (
    accuracy,
    accuracy_cases,
    accuracy_denoise,
    accuracy_files,
    accuracy_peers,
    accuracy_texts,
    real_data,
)
from tools._common import Record, Results
from tools.accuracy_case import Case, stored


def vad(packages: Path, cache: Path) -> Case:
    """The shipped recurrent model: small, and its data ships too."""
    entry = zoo.get("silero-vad")

    def calibrate(seed, count):
        feeds = entry.calibration()
        return [feeds[i] for i in np.random.default_rng(seed).permutation(len(feeds))[:count]]

    return Case("vad", "AUC", 0.97, entry.path, calibrate, lambda run: {"AUC": entry.evaluate(run)})


def job(**changes: object) -> Record:
    plain = {"packages": ".", "cache": ".", "name": "vad", "macs": 0.5, "seed": 0}
    return plain | {"samples": 32, "set": [], "method": accuracy.ORIGINAL} | changes


def test_runs_prune_and_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy_cases, "CASES", {"vad": vad})
    original = accuracy.run_one(job())
    assert original["scores"]["AUC"] == pytest.approx(zoo.get("silero-vad").baseline, abs=2e-3)
    assert original["macs"] == 1
    plain = accuracy.run_one(job(method=accuracy.PLAIN))
    refitted = accuracy.run_one(job(method="criterion=energy scope=global"))
    for record in (plain, refitted):
        assert record["outcome"] == "done"
        assert 0.35 < record["macs"] <= 0.5
    assert "drift" in refitted
    assert refitted["scores"]["AUC"] > plain["scores"]["AUC"] + 0.1
    refused = accuracy.run_one(job(method="criterion=nonsense"))
    assert refused["outcome"] == "no result"
    assert "nonsense" in refused["reason"]
    assert accuracy.run_one(job(method="torch-pruning"))["outcome"] == "no result"


def test_a_round_of_jobs_and_its_page(tmp_path: Path) -> None:
    given = argparse.Namespace(packages=tmp_path, cache=tmp_path, samples=64, set=["align=1"])
    given.names, given.macs, given.seeds = ["a"], [0.7, 0.5], [0, 1, 2]
    given.options, given.peers = ["criterion=energy"], ["onnxsim", "torch-pruning"]
    asked = dict(accuracy.jobs(given))
    # the original, then for each budget: two without a seed, two with three seeds each
    assert len(asked) == 1 + 2 * (2 + 2 * 3)
    assert json.loads(json.dumps(asked)) == asked
    results = Results(tmp_path / "r.json")
    for key, asked_for in asked.items():
        record = {"outcome": "done", "macs": asked_for["macs"], "seconds": 3.0}
        drop = 0.1 * asked_for["seed"] + (1 - asked_for["macs"])
        results.add(key, record | {"scores": {"AUC": 0.9 - drop}})
    results.add("a | onnxsim | 0.5 | 0", {"outcome": "no result", "reason": "too | little"})
    for seed in (1, 2):
        del results.records[f"a | onnxsim | 0.5 | {seed}"]
    text = "\n\n".join(accuracy.page(Results(tmp_path / "r.json").records | results.records, given))
    assert "Original: AUC 0.9000." in text
    assert (
        "| criterion=energy | 0.7 | AUC | 0.5000 | 0.4000 to 0.6000 (3 seeds) | -0.4000 |" in text
    )


def test_the_page_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = {
        "silero-vad | original": {"outcome": "done", "scores": {"AUC": 0.97}, "published": 0.96},
        "silero-vad | onnxsim | 0.5 | 0": {"outcome": "no result", "reason": "too | little"},
    }
    (tmp_path / "r.json").write_text(json.dumps(records))
    folders = ["--packages", str(tmp_path), "--cache", str(tmp_path / "cache")]
    files = ["--json", str(tmp_path / "r.json"), "--out", str(tmp_path / "p.md"), "--only-page"]
    monkeypatch.setattr("sys.argv", ["accuracy", *folders, *files])
    assert accuracy.main() == 0
    text = (tmp_path / "p.md").read_text()
    assert "Original: AUC 0.9700 (on another draw of such data 0.96)." in text
    assert "| onnxsim | 0.5 |  | no result | too \\| little |" in text
    assert json.loads((tmp_path / "r.json").read_text()) == records  # nothing was run


def test_options_are_words_or_json() -> None:
    found = accuracy.options_of("criterion=energy align=1 residual=true head_dims=0.5")
    assert found == {"criterion": "energy", "align": 1, "residual": True, "head_dims": 0.5}


def test_bisection_keeps_the_least_pruned_within_the_budget() -> None:
    cost = lambda made: (1 - made) ** 2  # noqa: E731
    found = accuracy_peers._bisected(lambda ratio: ratio, cost, 0.5)
    assert cost(found) <= 0.5 < cost(found - 2**-6)
    with pytest.raises(accuracy_peers.NotReached, match=r"0\.90"):
        accuracy_peers._bisected(lambda ratio: ratio, lambda made: 0.9, 0.5)


def test_denoising_frames() -> None:
    random = np.random.default_rng(0)
    signal = random.normal(size=4800) * 0.1
    frames = accuracy_denoise.spectrum(signal)
    assert np.allclose(
        accuracy_denoise.sound(frames)[: len(signal) - 480], signal[:-480], atol=1e-9
    )
    widths = accuracy_denoise.band_widths()
    assert widths.sum() == 481
    assert widths.min() == 2
    given = accuracy_denoise.features(frames)
    assert given["feat_erb"].shape == (1, 1, len(frames), 32)
    assert given["feat_spec"].shape == (1, 2, len(frames), 96)
    taps = np.zeros((len(frames), 96, 10))
    taps[:, :, 4] = 1  # the real part of the middle one of five taps: the frame itself
    same = accuracy_denoise.enhanced(frames.copy(), np.ones((len(frames), 32)), taps)
    assert np.allclose(same, frames)


def test_si_sdr_ignores_scale() -> None:
    random = np.random.default_rng(0)
    clean, noise = random.normal(size=20000), random.normal(size=20000)
    assert accuracy_denoise.si_sdr(3 * (clean + 0.1 * noise), clean) == pytest.approx(20, abs=0.2)


def test_texts_share_batches_by_length_and_come_back_in_order() -> None:
    ids = [[5] * n for n in (3, 7, 3, 3, 6, 2)]
    feeds = accuracy_texts.padded_feeds(ids, 2)
    assert [f["input_ids"].tolist() for f in feeds] == [
        [[5, 5, 0], [5, 5, 5]],
        [[5, 5, 5], [5, 5, 5]],
        [[5, 5, 5, 5, 5, 5, 0], [5, 5, 5, 5, 5, 5, 5]],
    ]
    assert all((f["attention_mask"] == (f["input_ids"] > 0)).all() for f in feeds)

    def run(feed):
        length = feed["input_ids"].sum(1, keepdims=True)
        return {"out": np.concatenate([length, length * 0 + 1], axis=1)}

    found = accuracy_texts.embeddings(run, ids, "out")
    assert found[:, 0].tolist() == [5 * len(row) for row in ids]


def test_probe_reads_what_is_linear() -> None:
    random = np.random.default_rng(0)
    points = random.normal(size=(600, 12))
    truth = points @ random.normal(size=12)
    noise = random.normal(size=600)
    half = slice(0, 400), slice(400, 600)
    good = accuracy_texts.probe(points[half[0]], truth[half[0]], points[half[1]], truth[half[1]])
    none = accuracy_texts.probe(points[half[0]], noise[half[0]], points[half[1]], noise[half[1]])
    assert good > 0.99
    assert abs(none) < 0.3


def test_rendered_text_is_seeded_and_turned() -> None:
    source = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "again", "today"]
    for draw, shape in ((real_data.lines, (48, 192)), (real_data.pages, (224, 224))):
        first, labels = draw(source * 3, 6, np.random.default_rng(3))
        again, _ = draw(source * 3, 6, np.random.default_rng(3))
        other, _ = draw(source * 3, 6, np.random.default_rng(4))
        assert first.shape == (6, *shape)
        assert (first == again).all()
        assert (first != other).any()
        assert len(set(labels.tolist())) > 1
        assert first.std() > 20


def test_files_by_extension_each_content_once(tmp_path: Path) -> None:
    kinds = tmp_path / "kinds.json"
    known = {"c": ["c", "h"], "cpp": ["cpp", "h"], "python": ["py"], "odd": ["odd"]}
    kinds.write_text(json.dumps({k: {"extensions": e} for k, e in known.items()}))
    text = "int main(void) { return 0; } /* long enough to be read */" * 3
    for i, name in enumerate(("a.c", "b.py", "b.h", "c.odd", "plain")):
        (tmp_path / name).write_text(text + f" /* {i} */")
    (tmp_path / "copy.c").write_text((tmp_path / "a.c").read_text())
    found = list(real_data.files([tmp_path], kinds, ["c", "cpp", "python"]))
    assert sorted((f.path.name, f.label) for f in found) == [("a.c", "c"), ("b.py", "python")]
    row = real_data.head_and_tail(tmp_path / "a.c", size=16)
    assert bytes(row[:16].astype(np.uint8)) == text[:16].encode()
    assert bytes(row[16:].astype(np.uint8)) == b" be read */ /* 0 */"[-16:]


def test_files_are_halved_by_folder_or_by_type() -> None:
    def file(i: int) -> real_data.LabelledFile:
        return real_data.LabelledFile(Path(f"{i}"), "c" if i % 20 else "rare", scored=i < 30)

    files = [file(i) for i in range(400)]
    apart = dict(accuracy_files.halves(files, apart=True))
    assert all(f.scored == half for f, half in apart.items())
    mixed = dict(accuracy_files.halves(files, apart=False))
    for label, many in (("c", 380), ("rare", 20)):
        counts = [
            sum(h is half for f, h in mixed.items() if f.label == label) for half in (False, True)
        ]
        assert counts == [min(accuracy_files.EACH, many // 2)] * 2


def test_stored_is_made_once(tmp_path: Path) -> None:
    made = stored(tmp_path / "a.npz", lambda: {"x": np.arange(3)})
    again = stored(tmp_path / "a.npz", lambda: pytest.fail("made again"))
    assert made["x"].tolist() == again["x"].tolist() == [0, 1, 2]


def test_the_torch_network_is_the_file() -> None:
    torch = pytest.importorskip("torch")
    from tools.accuracy_modules import resnet

    entry = zoo.get("resnet-fashion")
    module = resnet(entry.path)

    def run(feeds):
        with torch.no_grad():
            return {"logits": module.network(torch.from_numpy(feeds["pixels"][:200])).numpy()}

    feeds = entry.batches(entry.evaluation())[:1]
    labels = entry.evaluation()["labels"][:200]
    assert metrics.accuracy(run(feeds[0])["logits"], labels) > 0.9
    import onnxruntime as ort

    known = ort.InferenceSession(str(entry.path)).run(None, {"pixels": feeds[0]["pixels"][:200]})[0]
    assert np.allclose(run(feeds[0])["logits"], known, atol=1e-3)
