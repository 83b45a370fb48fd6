"""Schedules, iterative pruning, and runs that go on after an interruption to the same bits."""

from __future__ import annotations

import copy
import gc
import json
import random
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import swa_utils  # noqa: E402
from training_nets import SmallNet, images, trained  # noqa: E402

from graphprune.errors import NothingGainedError, UsageError  # noqa: E402
from graphprune.torch import checkpoint as files  # noqa: E402
from graphprune.torch.pace import SCHEDULES, constant, cubic, geometric, linear  # noqa: E402
from graphprune.torch.pipeline import prune  # noqa: E402
from graphprune.torch.schedule import iterative  # noqa: E402
from graphprune.torch.scores import scores_from  # noqa: E402
from graphprune.torch.slicing import parameter_cuts, slice_tensor  # noqa: E402

X = images(4, 0)[0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_end_at_the_target_and_never_grow(name: str) -> None:
    kept = [SCHEDULES[name](t, 8, 0.3) for t in range(1, 9)]
    assert kept[-1] == pytest.approx(0.3)
    assert kept == sorted(kept, reverse=True)
    assert all(SCHEDULES[name](t, 8, 1.0) == 1 for t in range(1, 9))
    assert SCHEDULES[name](1, 1, 0.3) == pytest.approx(0.3)  # one-shot


def test_shapes_of_schedules() -> None:
    assert [constant(t, 4, 0.2) for t in (1, 2)] == [0.2, 0.2]
    assert [linear(t, 4, 0.2) for t in (1, 2, 3)] == pytest.approx([0.8, 0.6, 0.4])
    # Zhu and Gupta: s_t = s_f + (s_i - s_f) (1 - t/T)^3 of what is removed
    assert [1 - cubic(t, 4, 0.2) for t in (1, 2)] == pytest.approx(
        [0.8 - 0.8 * 0.75**3, 0.8 - 0.8 * 0.5**3]
    )
    assert [geometric(t, 4, 0.0625) for t in (1, 2, 3)] == pytest.approx([0.5, 0.25, 0.125])


def idle(module: nn.Module, step: int) -> None:
    """No training."""


@pytest.fixture(scope="module")
def net() -> SmallNet:
    return trained(12, steps=10, kind=SmallNet).eval()


def widths(module: nn.Module) -> dict[str, int]:
    return {n: p.shape[0] for n, p in module.named_parameters() if n.endswith("weight")}


def test_recursive_pruning_ends_at_the_width_of_one_shot_pruning(net: SmallNet) -> None:
    """Ratios are of the original: rounding does not add up over the steps."""
    seen = []

    def look(module: nn.Module, step: int) -> None:
        seen.append((step, widths(module)))

    result = iterative(net, X, steps=3, schedule="linear", train=look, channels=0.25, align=1)
    once = prune(net, X, channels=0.25, align=1)
    assert [s for s, _ in seen] == [1, 2, 3]
    assert widths(result.module) == widths(once.module)
    assert seen[0][1]["hidden.weight"] > seen[1][1]["hidden.weight"] > 8
    assert [r.keep for r in result.steps] == [linear(t, 3, 0.25) for t in (1, 2, 3)]
    assert result.steps[-1].params == sum(p.numel() for p in result.module.parameters())
    assert result.steps[0].macs > result.steps[1].macs > result.steps[2].macs
    assert widths(net)["hidden.weight"] == 32  # the original is left


@pytest.mark.parametrize(("budget", "field"), [("params", "params"), ("macs", "macs")])
def test_budgets_are_of_the_original(net: SmallNet, budget: str, field: str) -> None:
    result = iterative(net, X, steps=3, schedule="linear", train=idle, align=1, **{budget: 0.4})
    whole = prune(net, X, channels=0.9).report.original
    for step in result.steps:
        share = getattr(step, field) / getattr(whole, field)
        assert step.keep - 0.06 < share <= step.keep


def test_global_scope_and_ratios_of_groups(net: SmallNet) -> None:
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.stem.weight[:9] *= 0.01  # most of what the threshold finds small
        net.last.weight[:, :9] *= 0.01
    result = iterative(
        net,
        X,
        steps=2,
        train=idle,
        channels=0.5,
        align=1,
        scope="global",
        group_ratio={"hidden": 0.25},
    )
    units = {g.name: (len(g.kept), g.size) for g in result.plan.groups}
    assert units["hidden"] == (8, 32)
    others = [v for n, v in units.items() if n != "hidden"]
    assert 0.4 < sum(k for k, _ in others) / (12 + 20) < 0.6
    assert len({k / n for k, n in others}) > 1


def test_the_plan_of_all_steps_is_in_the_numbering_of_the_original(net: SmallNet) -> None:
    result = iterative(net, X, steps=3, train=idle, channels=0.4, align=1)
    assert len(result.plans) == 3
    assert result.plan is not None
    cuts = parameter_cuts(result.plan)
    for path, parameter in result.module.named_parameters():  # nothing was trained
        assert torch.equal(parameter, slice_tensor(net.get_parameter(path), cuts.get(path, ())))
    names = [g.name for g in result.plan.groups]
    assert len(names) == len(set(names))
    once = prune(net, X, plan=result.plan)
    with torch.no_grad():
        torch.testing.assert_close(once.module.eval()(X), result.module.eval()(X))


def test_scores_are_asked_for_in_every_step(net: SmallNet) -> None:
    sizes = []

    def scores(module: nn.Module):
        sizes.append(module.hidden.out_features)
        x, y = images(32, 3)

        def losses():
            yield nn.functional.cross_entropy(module(x), y)

        return scores_from(module, losses)

    result = iterative(net, X, steps=2, train=idle, scores=scores, channels=0.4, align=1)
    assert sizes[0] == 32 > sizes[1]
    other = iterative(net, X, steps=2, train=idle, channels=0.4, align=1)
    assert [g.kept for g in result.plan.groups] != [g.kept for g in other.plan.groups]


def test_a_graph_is_pruned_on(net: SmallNet) -> None:
    result = iterative(net, X, steps=2, train=idle, channels=0.4, align=1, own=False)
    assert [s.kind for s in result.steps] == ["graph", "graph"]
    assert isinstance(result.module, torch.fx.GraphModule)
    once = iterative(net, X, steps=2, train=idle, channels=0.4, align=1)
    with torch.no_grad():
        torch.testing.assert_close(result.module.eval()(X), once.module.eval()(X))


class Interruption(Exception):
    pass


class Job:
    """A user's program: net, optimizer, scheduler, average, a loop that draws random numbers."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self.net = SmallNet()
        self.optimizer = torch.optim.AdamW(self.net.parameters(), 3e-3, amsgrad=True)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 12)
        self.ema = swa_utils.AveragedModel(
            self.net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)
        )
        self.stop_in: int | None = None

    def train(self, module: nn.Module, step: int) -> None:
        module.train()
        for batch in range(3):
            if step == self.stop_in and batch == 1:
                raise Interruption
            x, y = images(8, random.randrange(10**6))
            x = x + 0.1 * torch.randn_like(x) + float(np.random.normal())
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            self.optimizer.step()
            self.ema.update_parameters(module)
        self.scheduler.step()

    def run(self, checkpoint: Path | None, **settings):
        settings = {"channels": 0.4, "align": 1, **settings}
        return iterative(
            self.net,
            X,
            steps=3,
            train=self.train,
            scores=self.scores,
            optimizer=self.optimizer,
            ema=self.ema,
            state={"lr": self.scheduler},
            checkpoint=checkpoint,
            **settings,
        )

    def scores(self, module: nn.Module):
        x, y = images(16, random.randrange(10**6))

        def losses():
            module.eval()
            yield nn.functional.cross_entropy(module(x), y)

        return scores_from(module, losses)


def bits(module: nn.Module) -> dict[str, bytes]:
    return {n: t.detach().numpy().tobytes() for n, t in module.state_dict().items()}


@pytest.mark.parametrize(
    "settings", [{}, {"inplace": True}, {"own": False}], ids=["copy", "inplace", "graph"]
)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, settings) -> None:
    whole = Job(1)
    expected = whole.run(tmp_path / "whole", **settings)

    path = tmp_path / "run.safetensors"
    first = Job(1)
    first.stop_in = 2
    with pytest.raises(Interruption):
        first.run(path, **settings)

    second = Job(5)  # other weights, other random numbers: all that matters is in the checkpoint
    before = bits(second.net)
    result = second.run(path, **settings)
    assert result.resumed_at == 1
    assert bits(result.module) == bits(expected.module)
    assert bits(second.ema) == bits(whole.ema)
    assert result.steps == expected.steps
    assert [p.sha256 for p in result.plans] == [p.sha256 for p in expected.plans]
    assert second.scheduler.state_dict() == whole.scheduler.state_dict()
    one, two = whole.optimizer.state_dict(), second.optimizer.state_dict()
    assert one["param_groups"] == two["param_groups"]
    for number, state in one["state"].items():
        assert all(torch.equal(v, two["state"][number][k]) for k, v in state.items())
    held = {id(p) for g in second.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in result.module.parameters()}
    if settings.get("inplace"):
        assert result.module is second.net
    else:
        assert bits(second.net) == before

    third = Job(7)  # a run that is complete trains no more
    third.stop_in = 3
    again = third.run(path, **settings)
    assert again.resumed_at == 3
    assert bits(again.module) == bits(expected.module)


def test_the_run_depends_on_its_randomness(tmp_path: Path) -> None:
    """Else equal bits would prove nothing."""
    one, two = Job(1), Job(1)
    result = one.run(None)
    train = two.train

    def other(module: nn.Module, step: int) -> None:
        if step == 2:
            torch.manual_seed(99)
        train(module, step)

    two.train = other
    assert bits(result.module) != bits(two.run(None).module)


class TestCheckpoint:
    @pytest.fixture(scope="class")
    @staticmethod
    def path(net: SmallNet, tmp_path_factory) -> Path:
        path = tmp_path_factory.mktemp("run") / "deep" / "run.safetensors"
        iterative(net, X, steps=1, train=idle, channels=0.5, align=1, checkpoint=path)
        return path

    def test_is_safetensors_and_json(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            data = json.loads(file.metadata()["graphprune.run"])
            names = list(file.keys())
        assert data["step"] == 1
        assert data["plans"][0]["format"] == 1
        assert "weights/stem.weight" in names
        assert b"pickle" not in path.read_bytes()

    def test_of_another_run(self, net: SmallNet, path: Path) -> None:
        content = path.read_bytes()
        for settings, words in (
            ({"channels": 0.25}, "options differs"),
            ({"schedule": "linear"}, "schedule differs"),
            ({"steps": 2}, "steps differs"),
            ({"optimizer": torch.optim.SGD(net.parameters(), 0.1)}, "optimizer differs"),
        ):
            given = {"steps": 1, "channels": 0.5, "align": 1, **settings}
            with pytest.raises(UsageError, match=f"of another run .{words}.: remove it"):
                iterative(net, X, train=idle, checkpoint=path, **given)
        with pytest.raises(UsageError, match="source sha256 differs"):
            iterative(SmallNet(8), X, steps=1, train=idle, channels=0.5, align=1, checkpoint=path)
        assert path.read_bytes() == content

    def test_damaged(self, net: SmallNet, path: Path, tmp_path: Path) -> None:
        half = tmp_path / "half"
        half.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(UsageError, match=r"cannot be read: .*; remove it"):
            iterative(net, X, steps=1, train=idle, channels=0.5, checkpoint=half)
        foreign = tmp_path / "foreign.safetensors"
        from safetensors.torch import save_file

        save_file({"x": torch.ones(2)}, foreign)
        with pytest.raises(UsageError, match="no checkpoint of graphprune"):
            files.load(foreign)

    def test_states_of_all_kinds(self, tmp_path: Path) -> None:
        state = {
            "text": "ü",
            "none": None,
            "numbers": (1, 2.5, float("inf"), True),
            3: [torch.arange(3), {"deep": torch.tensor(0.1, dtype=torch.bfloat16)}],
            "array": np.arange(4.0),
            "bytes": b"\x00\xff",
        }
        path = tmp_path / "c"
        saved = files.Checkpoint(
            {"a": 1},
            2,
            (),
            ("module",),
            ({"b": 2},),
            {"w": torch.ones(2, 3).T},
            ("",),
            {"s": state},
            {},
        )
        files.save(path, saved)
        found = files.load(path)
        assert (found.run, found.step, found.kinds, found.records) == (
            {"a": 1},
            2,
            ("module",),
            ({"b": 2},),
        )
        again = found.states["s"]
        assert again["numbers"] == state["numbers"]
        assert again["bytes"] == state["bytes"]
        assert torch.equal(again[3][0], state[3][0])
        assert again[3][1]["deep"].dtype == torch.bfloat16
        assert np.array_equal(again["array"], state["array"])
        assert found.weights["w"].shape == (3, 2)

    def test_what_cannot_be_kept(self, tmp_path: Path) -> None:
        saved = files.Checkpoint({}, 0, (), (), (), {}, (), {"mine": {"f": print}}, {})
        with pytest.raises(UsageError, match="'states/mine/f' is of type builtin"):
            files.save(tmp_path / "c", saved)
        assert list(tmp_path.iterdir()) == []


def test_the_original_is_not_kept_alive() -> None:
    """In place, a step needs the memory of one smaller module and not of all before it."""
    net = SmallNet()
    old = weakref.ref(net.hidden.weight)
    alive = []

    def look(module: nn.Module, step: int) -> None:
        gc.collect()
        alive.append(old() is not None)

    iterative(net, X, steps=2, train=look, channels=0.5, align=1, inplace=True)
    assert alive == [False, False]


class TestErrors:
    def test_arguments(self, net: SmallNet) -> None:
        with pytest.raises(UsageError, match="unknown schedule 'square'"):
            iterative(net, X, steps=2, train=idle, schedule="square", channels=0.5)
        with pytest.raises(UsageError, match="at least one"):
            iterative(net, X, steps=0, train=idle, channels=0.5)
        with pytest.raises(UsageError, match="say what stays"):
            iterative(net, X, steps=1, train=idle)
        with pytest.raises(UsageError, match="head_dims cannot be pruned in several steps"):
            iterative(net, X, steps=2, train=idle, head_dims=0.5)
        with pytest.raises(UsageError, match="names no group"):
            iterative(net, X, steps=1, train=idle, channels=0.5, only="nothing.*")

    def test_nothing_gained(self, net: SmallNet) -> None:
        with pytest.raises(NothingGainedError, match="no step could prune anything"):
            iterative(net, X, steps=2, train=idle, channels=1.0)

    def test_a_schedule_of_ones_own(self, net: SmallNet) -> None:
        def late(step: int, steps: int, target: float) -> float:
            return target if step == steps else 1.0

        result = iterative(net, X, steps=2, train=idle, schedule=late, channels=0.5, align=1)
        assert not result.plans[0].initializers
        assert result.plans[1].initializers

    def test_the_module_is_left_when_training_fails(self, net: SmallNet) -> None:
        def fails(module: nn.Module, step: int) -> None:
            raise Interruption

        copied = copy.deepcopy(net)
        with pytest.raises(Interruption):
            iterative(copied, X, steps=2, train=fails, channels=0.5)
        assert bits(copied) == bits(net)
