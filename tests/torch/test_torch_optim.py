"""Steps after pruning are those of training the masked original on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

from torch import nn, optim  # noqa: E402
from torch.optim import swa_utils  # noqa: E402
from training_nets import ConvNet, Smaller, SmallNet, images, smaller, train, trained  # noqa: E402

from graphprune.cut import Cut  # noqa: E402
from graphprune.decide import decide  # noqa: E402
from graphprune.errors import UsageError  # noqa: E402
from graphprune.options import Options  # noqa: E402
from graphprune.plan import Plan  # noqa: E402
from graphprune.torch.capture import capture  # noqa: E402
from graphprune.torch.ema import carry_ema  # noqa: E402
from graphprune.torch.optim import carry_over, check_optimizer  # noqa: E402
from graphprune.torch.pipeline import prune  # noqa: E402
from graphprune.torch.slicing import parameter_cuts, slice_tensor  # noqa: E402
from graphprune.torch.subject import TorchSubject  # noqa: E402
from graphprune.torch.twin import Twin  # noqa: E402

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, 1e-3, weight_decay=0.01),
    "adam-for-each": lambda p: optim.Adam(p, 1e-3, weight_decay=0.01, foreach=True),
    "adam-fused": lambda p: optim.Adam(p, 1e-3, weight_decay=0.01, fused=True),
    "adamw": lambda p: optim.AdamW(p, 1e-3, weight_decay=0.1, amsgrad=True),
    "nadam": lambda p: optim.NAdam(p, 1e-3),
    "radam": lambda p: optim.RAdam(p, 1e-3),
    "adamax": lambda p: optim.Adamax(p, 1e-3, weight_decay=0.01),
    "rmsprop": lambda p: optim.RMSprop(p, 1e-3, momentum=0.9, centered=True, weight_decay=0.01),
    "adagrad": lambda p: optim.Adagrad(p, 1e-2, initial_accumulator_value=0.1),
    "adadelta": lambda p: optim.Adadelta(p, 0.5),
    "asgd": lambda p: optim.ASGD(p, 1e-2, t0=1),
    "rprop": lambda p: optim.Rprop(p, 1e-3),
}
BEFORE, AFTER = (100, 101, 102, 103), (200, 201, 202)


@pytest.fixture(scope="module")
def start() -> nn.Module:
    return trained(dtype=torch.float64)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    net = trained(12, dtype=torch.float64, kind=SmallNet)
    net.drop.p = 0.0
    return net


def pruned(net: nn.Module) -> Smaller:
    return smaller(net, images(4, 0)[0].double(), channels=0.5, align=1, residual=True)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_equal_masked_training(start: nn.Module, small: nn.Module, name: str) -> None:
    net = copy.deepcopy(start if name in ("nesterov", "adamw", "rmsprop") else small).train()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer, BEFORE)
    result = pruned(net)

    twin = Twin(result.captured, result.plan)
    kept = dict(twin.module.named_parameters())
    masked = OPTIMIZERS[name]([kept[n] for n, _ in net.named_parameters()])
    masked.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    carry_over(optimizer, result.pairs)
    held = [p for g in optimizer.param_groups for p in g["params"]]
    assert [id(p) for p in held] == [id(result.pairs[p][0]) for p in net.parameters()]
    assert set(optimizer.state) <= set(held)
    before = {n: p.detach().clone() for n, p in result.module.named_parameters()}
    train(result.module, optimizer, AFTER)
    train_twin(twin, masked)

    cuts = parameter_cuts(result.plan)
    assert sum(p.numel() for p in result.module.parameters()) < 0.6 * sum(
        p.numel() for p in net.parameters()
    )
    for path, parameter in result.module.named_parameters():
        expected = slice_tensor(kept[path].detach(), cuts.get(path, ()))
        moved = (parameter - before[path]).abs().max()
        assert moved > 1e-6, path
        assert (parameter - expected).abs().max() < 1e-6 * max(1.0, float(expected.abs().max()))
        assert (parameter - expected).abs().max() < 1e-3 * moved
    for path, buffer in result.module.named_buffers():
        if buffer.is_floating_point():
            expected = slice_tensor(dict(twin.module.named_buffers())[path], cuts.get(path, ()))
            assert (buffer - expected).abs().max() < 1e-6


def train_twin(twin: Twin, optimizer: optim.Optimizer) -> None:
    for seed in AFTER:
        x, y = images(16, seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x.double()), y).backward()
        optimizer.step()


def test_groups_and_schedulers_stay(start: nn.Module) -> None:
    net = copy.deepcopy(start)
    biases = [p for p in net.parameters() if p.ndim < 2]
    matrices = [p for p in net.parameters() if p.ndim > 1]
    optimizer = optim.SGD(
        [{"params": matrices, "weight_decay": 0.1}, {"params": biases, "lr": 0.3}],
        lr=0.1,
        momentum=0.9,
    )
    groups, lists = list(optimizer.param_groups), [g["params"] for g in optimizer.param_groups]
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    train(net, optimizer, BEFORE)
    scheduler.step()
    result = pruned(net)
    carry_over(optimizer, result.pairs)
    assert all(a is b for a, b in zip(groups, optimizer.param_groups, strict=True))
    assert all(a is g["params"] for a, g in zip(lists, groups, strict=True))
    assert [len(x) for x in lists] == [len(matrices), len(biases)]
    assert groups[0]["weight_decay"] == 0.1
    scheduler.step()
    assert [g["lr"] for g in groups] == pytest.approx([0.025, 0.075])
    state = optimizer.state_dict()
    fresh = optim.SGD([{"params": list(x)} for x in lists], lr=1)
    fresh.load_state_dict(state)  # a checkpoint fits the pruned module
    train(result.module, optimizer, AFTER)


def test_sparse_adam_goes_on() -> None:
    """Rows that a batch does not name have no gradient; columns are cut."""
    torch.manual_seed(0)
    x, y = torch.randint(0, 9, (4, 6)), torch.randint(0, 4, (4,))

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 10, sparse=True)
            self.out = nn.Linear(10, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.embed(x)).mean(1))

    net = Bag().double()
    optimizer = optim.SparseAdam([net.embed.weight], 0.05)

    def step(run, optimizer: optim.Optimizer) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(run(x), y).backward()
        optimizer.step()

    step(net, optimizer)
    step(net, optimizer)
    result = smaller(net, x, channels=0.5, align=1)
    twin = Twin(result.captured, result.plan)
    masked = optim.SparseAdam([twin.module.embed.weight], 0.05)
    masked.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    carry_over(optimizer, result.pairs)
    for _ in range(3):
        step(result.module, optimizer)
        step(twin, masked)
    made = result.module.embed.weight
    expected = slice_tensor(
        twin.module.embed.weight.detach(), parameter_cuts(result.plan)["embed.weight"]
    )
    assert made.shape == (9, 5)
    assert (made - expected).abs().max() < 1e-9


def test_accumulated_gradients_are_cut(start: nn.Module) -> None:
    net = copy.deepcopy(start)
    optimizer = optim.Adam(net.parameters())
    net(images(4, 5)[0].double()).square().sum().backward()
    result = pruned(net)
    carry_over(optimizer, result.pairs)
    for old, (new, cuts) in result.pairs.items():
        assert torch.equal(new.grad, slice_tensor(old.grad, cuts))


def test_grad_scaler_goes_on(start: nn.Module) -> None:
    net = copy.deepcopy(start).float()
    optimizer = optim.AdamW(net.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    def step(module: nn.Module, seed: int) -> None:
        x, y = images(8, seed)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(module(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    step(net, 1)
    step(net, 2)
    result = smaller(net, images(4, 0)[0], channels=0.5, align=1)
    carry_over(optimizer, result.pairs)
    before = [p.detach().clone() for p in result.module.parameters()]
    step(result.module, 3)
    assert scaler.get_scale() == 2048.0  # three good steps, counted through the pruning
    assert all(
        not torch.equal(a, b) for a, b in zip(before, result.module.parameters(), strict=True)
    )


class Blocks(optim.SGD):
    """Keeps one number a row, as block-wise optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["row_scale"] = torch.ones(p.shape[0], 1)
        return super().step(closure)


class Lists(optim.SGD):
    """Keeps a history that nobody outside can read."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["history"] = [p.detach().clone()]
        return super().step(closure)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: optim.Adafactor(p), "Adafactor cannot be carried over"),
        (lambda p: optim.LBFGS(p), "LBFGS cannot be carried over"),
        (lambda p: optim.Muon([q for q in p if q.ndim == 2]), "Muon cannot be carried over"),
        (lambda p: Blocks(p, 1e-3), "Blocks cannot be carried over, its state 'row_scale'"),
        (lambda p: Lists(p, 1e-3), "Lists cannot be carried over, its state 'history'"),
    ],
)
def test_others_are_refused_and_nothing_is_changed(start: nn.Module, make, words: str) -> None:
    net = copy.deepcopy(start)
    optimizer = make(list(net.parameters()))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = net(images(8, 3)[0].double()).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = [id(p) for g in optimizer.param_groups for p in g["params"]]
    states = {id(p): dict(s) for p, s in optimizer.state.items()}
    result = pruned(net)
    with pytest.raises(UsageError, match=words):
        check_optimizer(optimizer, result.pairs)
    with pytest.raises(UsageError, match=words) as error:
        carry_over(optimizer, result.pairs)
    assert "\n" not in str(error.value)
    assert "make a new one" in str(error.value)
    assert before == [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert {id(p): dict(s) for p, s in optimizer.state.items()}.keys() == states.keys()
    assert all(p.grad is None for p in result.module.parameters())


def test_optimizer_of_another_model(start: nn.Module) -> None:
    result = pruned(copy.deepcopy(start))
    other = optim.Adam(ConvNet().parameters())
    with pytest.raises(UsageError, match="holds no parameter of the module"):
        carry_over(other, result.pairs)


def test_parameters_of_a_loss_stay(start: nn.Module) -> None:
    """A loss with weights of its own is trained along, and is nobody's to prune."""
    net, centres = copy.deepcopy(start), nn.Parameter(torch.randn(5, 5, dtype=torch.float64))
    optimizer = optim.SGD([*net.parameters(), centres], 0.1, momentum=0.9)
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = optimizer.state[centres]["momentum_buffer"]
    carry_over(optimizer, pruned(net).pairs)
    assert optimizer.param_groups[0]["params"][-1] is centres
    assert optimizer.state[centres]["momentum_buffer"] is held


def test_cuts_that_do_not_fit_are_an_error() -> None:
    old, new = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(3, 3))
    cut = Cut(0, 4, torch.tensor([0, 2]).numpy())
    optimizer = optim.SGD([old], 0.1)
    with pytest.raises(UsageError, match="plan is of another module"):
        carry_over(optimizer, {old: (new, (cut,))})
    assert optimizer.param_groups[0]["params"][0] is old


def test_wrapped_optimizers_are_seen_through(start: nn.Module) -> None:
    class Wrapper(optim.Optimizer):
        def __init__(self, inner: optim.Optimizer) -> None:
            self.optimizer = inner

        param_groups = property(lambda self: self.optimizer.param_groups)
        state = property(lambda self: self.optimizer.state)

    net = copy.deepcopy(start)
    inner = optim.Adam(net.parameters())
    train(net, inner, BEFORE[:1])
    result = pruned(net)
    carry_over(Wrapper(inner), result.pairs)
    assert inner.param_groups[0]["params"][0] is result.pairs[net.stem.weight][0]
    train(result.module, inner, AFTER[:1])


class TestThroughPrune:
    @pytest.mark.parametrize("name", ["nesterov", "adam", "adamw"])
    @pytest.mark.parametrize("inplace", [True, False])
    def test_training_goes_on_as_if_masked(self, name: str, inplace: bool) -> None:
        net = trained(12, 5, torch.float64, SmallNet).train()
        net.drop.p = 0.0
        optimizer = OPTIMIZERS[name](net.parameters())
        averaged = swa_utils.AveragedModel(net)
        train(net, optimizer, BEFORE)
        names = [n for n, _ in net.named_parameters()]
        before = copy.deepcopy(optimizer.state_dict())
        result = prune(
            net,
            images(4, 0)[0].double(),
            optimizer=optimizer,
            ema=averaged,
            inplace=inplace,
            own=True,
            channels=0.5,
            align=1,
        )
        assert (result.module is net) == inplace
        twin = Twin(result.captured, result.plan)
        kept = dict(twin.module.named_parameters())
        masked = OPTIMIZERS[name]([kept[n] for n in names])
        masked.load_state_dict(before)
        start = copy.deepcopy(result.module)
        train(result.module, optimizer, AFTER)
        averaged.update_parameters(result.module)
        train_twin(twin, masked)
        cuts = parameter_cuts(result.plan)
        for path, parameter in result.module.named_parameters():
            expected = slice_tensor(kept[path].detach(), cuts.get(path, ()))
            assert parameter.shape == averaged.module.get_parameter(path).shape
            assert (parameter - expected).abs().max() < 1e-6
            assert (parameter - start.get_parameter(path)).abs().max() > 1e-4

    @pytest.mark.parametrize("kind", ["another", "refused"])
    @pytest.mark.parametrize("inplace", [True, False])
    def test_nothing_is_changed_by_a_wrong_optimizer(self, kind: str, inplace: bool) -> None:
        net, other = trained(12, 0, kind=SmallNet), SmallNet()
        if kind == "another":
            optimizer = optim.Adam(other.parameters())
        else:
            optimizer = optim.Adafactor(net.parameters())
        groups = [list(map(id, g["params"])) for g in optimizer.param_groups]
        averaged = swa_utils.AveragedModel(net)
        shapes = [p.shape for p in net.parameters()]
        with pytest.raises(UsageError, match=r"holds no parameter|cannot be carried over"):
            prune(
                net,
                images(4, 0)[0],
                optimizer=optimizer,
                ema=averaged,
                inplace=inplace,
                channels=0.5,
                align=1,
            )
        assert [p.shape for p in net.parameters()] == shapes
        assert [p.shape for p in averaged.module.parameters()] == shapes
        assert [list(map(id, g["params"])) for g in optimizer.param_groups] == groups


class TestEma:
    @pytest.fixture(scope="class")
    @staticmethod
    def parts(start: nn.Module) -> tuple[nn.Module, Smaller]:
        """An average of a net's training, and the pruned net."""
        net = copy.deepcopy(start)
        averaged = swa_utils.AveragedModel(
            net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=True
        )
        optimizer = optim.Adam(net.parameters(), 1e-2)
        for seed in BEFORE:
            train(net, optimizer, [seed])
            averaged.update_parameters(net)
        return averaged, pruned(net)

    @staticmethod
    def check(values: dict[str, torch.Tensor], original: nn.Module, plan: Plan) -> None:
        cuts = parameter_cuts(plan)
        assert cuts
        for path, tensor in original.state_dict().items():
            assert torch.equal(values[path], slice_tensor(tensor, cuts.get(path, ()))), path

    def test_averaged_model(self, parts) -> None:
        averaged, result = parts
        averaged = copy.deepcopy(averaged)
        original = averaged.module
        assert not torch.equal(original.stem.weight, result.captured.module.stem.weight)
        count = averaged.n_averaged.clone()
        carry_ema(averaged, result.plan, result.captured, result.module)
        assert averaged.n_averaged == count
        self.check(averaged.module.state_dict(), original, result.plan)
        averaged.update_parameters(result.module)  # goes on averaging
        old = slice_tensor(original.stem.weight, parameter_cuts(result.plan)["stem.weight"])
        expected = 0.8 * old + 0.2 * result.module.stem.weight
        assert torch.allclose(averaged.module.stem.weight, expected)
        averaged(images(2, 1)[0].double())

    def test_copy_of_the_module(self, parts) -> None:
        averaged, result = parts
        made = prune(result.captured.module, result.captured.args, plan=result.plan, own=True)
        copied = copy.deepcopy(averaged.module)
        stem, calls = copied.stem, []
        stem.register_forward_hook(lambda *_: calls.append(1))
        carry_ema(copied, result.plan, result.captured, made.module)
        self.check(copied.state_dict(), averaged.module, result.plan)
        assert copied.stem is stem
        assert stem.out_channels == stem.weight.shape[0] < 16
        copied(images(2, 1)[0].double())
        assert calls == [1]

    def test_copy_where_the_class_is_lost(self, parts) -> None:
        averaged, result = parts
        copied = copy.deepcopy(averaged.module)
        with pytest.raises(UsageError, match="cannot become in place"):
            carry_ema(copied, result.plan, None, result.module)
        assert copied.stem.weight.shape[0] == 16

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_state_dict(self, parts, prefix: str) -> None:
        averaged, result = parts
        state = {prefix + k: v for k, v in averaged.module.state_dict().items()}
        keys = list(state)
        carry_ema(state, result.plan)
        assert list(state) == keys
        plain = {k.removeprefix("module."): v for k, v in state.items()}
        self.check(plain, averaged.module, result.plan)
        result.module.load_state_dict(plain)

    def test_tied_weights_are_cut_at_all_their_paths(self) -> None:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed, self.mix = nn.Embedding(11, 16), nn.Linear(16, 16)
                self.out = nn.Linear(16, 11, bias=False)
                self.out.weight = self.embed.weight

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.out(torch.tanh(self.mix(self.embed(x))))

        net, x = Tied(), torch.arange(8).reshape(2, 4)
        captured = capture(net, (x,))
        plan, _ = decide(TorchSubject(captured), Options(channels=0.5, align=1), lambda *_: None)
        assert sorted(parameter_cuts(plan)) == ["embed.weight", "mix.bias", "mix.weight"]
        shared = dict(net.state_dict())
        carry_ema(shared, plan)  # the state dict shows what is tied
        loose = {k: v.clone() for k, v in net.state_dict().items()}
        carry_ema(loose, plan, captured)
        for state in (shared, loose):
            assert state["out.weight"].shape == state["embed.weight"].shape == (11, 8)

    def test_of_another_model(self, parts) -> None:
        averaged, result = parts
        with pytest.raises(UsageError, match="of another model"):
            carry_ema(ConvNet(width=8), result.plan, None, result.module)
        with pytest.raises(UsageError, match="of another model"):
            carry_ema({"weight": torch.ones(2)}, result.plan)
        with pytest.raises(UsageError, match="copy of the pruned module"):
            carry_ema(averaged, result.plan)
        with pytest.raises(UsageError, match="type float"):
            carry_ema(0.9, result.plan)
        assert averaged.module.stem.weight.shape[0] == 16
