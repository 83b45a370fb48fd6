"""Calibration data from files and callables, and one clear line for every slip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workbench import drawn, from_text

from graphprune import zoo
from graphprune.data.feeds import read_calibration
from graphprune.errors import UsageError
from graphprune.onnx.load import load

RNG = np.random.default_rng(0)


def one() -> Any:
    return load(from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})).model


def two() -> Any:
    inputs = "float[N, 8] x, int64[N] k"
    return load(
        from_text("z = MatMul (x, w) y = Cast <to = 1> (k)", {"w": drawn(8, 4)}, inputs=inputs)
    ).model


def data(count: int = 32) -> np.ndarray:
    return RNG.normal(size=(count, 8)).astype(np.float32)


def all_of(calibration: Any, name: str = "x") -> np.ndarray:
    parts = (*calibration.fit, *calibration.choose, *calibration.judge)
    return np.concatenate([b.feeds[name] for b in parts])


def test_one_array_in_a_file(tmp_path: Path) -> None:
    array = data(100)
    np.save(tmp_path / "c.npy", array)
    found = read_calibration(str(tmp_path / "c.npy"), one(), samples=64)
    assert found.samples == 64
    assert found.judge
    assert found.choose
    rows = all_of(found)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, array[:64]))  # each in one part only


def test_named_arrays_and_a_folder(tmp_path: Path) -> None:
    x, k = data(40), np.arange(40)
    np.savez(tmp_path / "a.npz", x=x[:20], k=k[:20])
    np.savez(tmp_path / "b.npz", x=x[20:], k=k[20:])
    found = read_calibration(tmp_path, two())
    assert found.samples == 40
    numbers = all_of(found, "k")
    np.testing.assert_array_equal(all_of(found), x[numbers])


def test_a_folder_of_arrays_named_like_the_inputs(tmp_path: Path) -> None:
    x, k = data(40), np.arange(40)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "k.npy", k)
    found = read_calibration(tmp_path, two())
    np.testing.assert_array_equal(all_of(found), x[all_of(found, "k")])


@pytest.mark.parametrize("name", zoo.names())
def test_the_inputs_that_ship_with_a_model(name: str) -> None:
    entry = zoo.get(name)
    found = read_calibration(f"zoo:{name}", load(entry.path).model, samples=4000)
    sizes = (found.fit, found.choose, found.judge)
    assert min(map(len, sizes)) >= 2
    key = next(iter(entry.calibration()[0]))
    shipped = np.concatenate([f[key] for f in entry.calibration()])
    given = all_of(found, key)
    assert len(given) == len(shipped)
    assert {row.tobytes() for row in given} == {row.tobytes() for row in shipped}
    with pytest.raises(UsageError, match="no model 'zoo:absent'"):
        read_calibration("zoo:absent", one())


def test_a_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calibration_source_for_test.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    for i in range(1000):\n"
        "        yield {'x': np.full((2, 8), i, np.float32)}\n"
        "def bad():\n"
        "    yield {'x': np.zeros((2, 8), np.float32)}\n"
        "    raise RuntimeError('disk on\\nfire')\n"
    )
    monkeypatch.chdir(tmp_path)
    found = read_calibration("calibration_source_for_test:feeds", one(), samples=32)
    assert found.samples == 32
    assert all_of(found).max() == 15
    with pytest.raises(UsageError, match="raised at feed 1: RuntimeError: disk on fire"):
        read_calibration("calibration_source_for_test:bad", one())
    with pytest.raises(UsageError, match="AttributeError"):
        read_calibration("calibration_source_for_test:absent", one())
    assert str(tmp_path) not in sys.path


def test_feeds_that_cannot_be_divided_stay_whole() -> None:
    model = load(
        from_text(
            "y = Add (x, s)", {}, inputs="float[N, 8] x, float[1, 8] s", outputs="float[N, 8] y"
        )
    ).model

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        for _ in range(10):
            yield {"x": data(20), "s": data(1)}

    found = read_calibration(feeds, model)
    assert found.samples == 10
    assert found.fit[0].feeds["x"].shape == (20, 8)


def test_a_stack_of_whole_calls() -> None:
    found = read_calibration({"x": np.zeros((16, 3, 8), np.float32)}, one())
    assert found.samples == 16
    assert found.fit[0].feeds["x"].shape == (3, 8)


def test_models_of_a_fixed_batch() -> None:
    model = load(
        from_text(
            "y = MatMul (x, w)",
            {"w": drawn(8, 4)},
            inputs="float[2, 8] x",
            outputs="float[2, 4] y",
        )
    ).model
    found = read_calibration(data(33), model)
    assert found.samples == 32
    assert {b.feeds["x"].shape for b in found.fit} == {(2, 8)}


def nan() -> np.ndarray:
    array = data()
    array[3, 3] = np.nan
    return array


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((32, 9), np.float32), r"shape \[32, 9\], the model takes \[\?, 8\]"),
        (np.zeros((32, 8), np.int64), "is int64, the model takes float32"),
        (nan(), "NaN"),
        (data(5), "at least 8 samples"),
        ({"x": data(), "q": data()}, "has 'q'"),
        ([1, 2], "gave int as feed 0"),
        ([], "there are 0"),
        (3, "gives no feeds: TypeError"),
    ],
)
def test_slips(source: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read_calibration(source, one())
    assert "\n" not in str(caught.value)


def test_slips_with_several_inputs() -> None:
    with pytest.raises(UsageError, match="is one array, but the model has inputs 'x', 'k'"):
        read_calibration(data(), two())
    with pytest.raises(UsageError, match="no array 'k'"):
        read_calibration({"x": data()}, two())
    with pytest.raises(UsageError, match="different numbers of samples: 'x' 32, 'k' 31"):
        read_calibration({"x": data(), "k": np.arange(31)}, two())


def test_slips_with_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration data at"):
        read_calibration(str(tmp_path / "absent.npz"), one())
    with pytest.raises(UsageError, match=r"holds no \.npz or \.npy"):
        read_calibration(tmp_path, one())
    (tmp_path / "c.txt").write_text("x")
    with pytest.raises(UsageError, match="neither"):
        read_calibration(tmp_path / "c.txt", one())
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(UsageError, match=r"calibration file .*c\.npz"):
        read_calibration(tmp_path / "c.npz", one())
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot read"):
        read_calibration(tmp_path / "o.npy", one())
    with pytest.raises(UsageError, match="calib_samples 3"):
        read_calibration(data(), one(), samples=3)
