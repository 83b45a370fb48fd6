from __future__ import annotations

import operator

import pytest

torch = pytest.importorskip("torch")

import own_nets as nets  # noqa: E402
from own_nets import image, pruned  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

from graphprune.errors import UsageError  # noqa: E402
from graphprune.torch.attributes import Change, put  # noqa: E402
from graphprune.torch.forward import Written, instance, subclass, written  # noqa: E402
from graphprune.torch.provenance import Equation, Traced  # noqa: E402
from graphprune.torch.sites import Place, Sites, call_at, function_of, tree_of  # noqa: E402
from graphprune.torch.solve import changes, solve  # noqa: E402
from graphprune.torch.tags import Attribute, Computed, Size, Tag, evaluate, plain  # noqa: E402

HEADS, DIM, BOTH = Attribute("a", "heads"), Attribute("a", "dim"), Attribute("a", "both")


def test_arithmetic_remembers_where_it_comes_from() -> None:
    heads, width = Tag(4, HEADS), Tag(32, Size(1, 0, 2))
    made = 2 * (width // heads) - 1
    assert isinstance(made, Tag)
    assert made == 15
    assert evaluate(made.origin, {HEADS: 2, Size(1, 0, 2): 32}) == 31
    assert evaluate((width % heads).origin, {HEADS: 0, Size(1, 0, 2): 32}) is None
    assert type(width / heads) is float
    assert type(heads**-0.5) is float
    assert plain([heads, (width, 1)]) == [4, (32, 1)]
    assert type(plain((heads,))[0]) is int


def solved(*equations: tuple[object, int | None], **sizes: int) -> dict[str, int]:
    old = {HEADS: 4, DIM: 8, BOTH: 32}
    traced = Traced(tuple(Equation(o, v, "n") for o, v in equations), old, {})
    found = solve(traced, {})
    return {a.name: n for a, n in found.values.items()} | {
        f"{a.name}?": n for a, n in found.conflicts.items()
    }


def test_attributes_are_solved_for() -> None:
    product = Computed(operator.mul, HEADS, DIM)
    assert solved((HEADS, 2), (DIM, 8), (BOTH, 16)) == {"heads": 2, "both": 16}
    assert solved((product, 16), (HEADS, 2)) == {"heads": 2}
    assert solved((Computed(operator.floordiv, BOTH, HEADS), 16), (BOTH, 32)) == {"heads": 2}
    assert solved((product, 16)) == {"heads": 2}  # one changes, the other stays
    assert solved((DIM, 4), (DIM, 8), (HEADS, 4)) == {"dim?": (4, 8)}
    assert solved((DIM, None), (HEADS, 2)) == {"dim?": (), "heads": 2}


def test_entries_of_a_tuple_are_set_together() -> None:
    first, second = Attribute("a", "grid", 0), Attribute("a", "grid", 1)
    found = changes({second: 3}, {first: 7, second: 5})
    assert found == (Change("a", "grid", (7, 5), (7, 3)),)
    net = nn.Sequential()
    net.add_module("a", nn.Identity())
    net[0].grid = [7, 5]
    put(net, found)
    assert net[0].grid == [7, 3]


def test_calls_are_found_in_the_source() -> None:
    code = nets.WrittenAttention.forward.__code__
    tree = tree_of(code)
    assert tree is not None
    assert function_of(nets.WrittenAttention, "forward", code) is not None
    assert function_of(nets.WrittenAttention, "backward") is None
    assert Sites(nn.Identity()).places(None, (1, [2, 3]), {"dim": 4}) == [None] * 4
    assert call_at(tree, (0, 0, 0, 1)) is None


def place_of(text: str, argument: int) -> Place:
    """Where the last call of `forward` with this text stands."""
    import ast

    tree = tree_of(nets.WrittenAttention.forward.__code__)
    assert tree is not None
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and text == ast.unparse(n))
    where = call.lineno, call.end_lineno, call.col_offset, call.end_col_offset
    return Place("", "forward", where, argument)  # type: ignore[arg-type]


def test_a_subclass_computes_with_what_is_written() -> None:
    place = place_of("(scores @ v).transpose(1, 2).reshape(B, N, C)", 2)
    text = written(nets.WrittenAttention(), place, 16)
    assert text is not None
    assert (text.old, text.new) == ("C", 16)
    cls = subclass(nets.WrittenAttention, (text,))
    assert cls is subclass(nets.WrittenAttention, (text,))
    assert issubclass(cls, nets.WrittenAttention)
    assert cls.__name__ == "WrittenAttention"
    with pytest.raises(RuntimeError, match="16"):
        cls()(torch.ones(2, 3, 32))
    again = instance(nets.WrittenAttention, ((text,),))
    assert type(again) is cls


def test_source_that_has_changed_is_refused() -> None:
    place = place_of("(scores @ v).transpose(1, 2).reshape(B, N, C)", 2)
    with pytest.raises(UsageError, match="is not that which was pruned"):
        subclass(nets.WrittenAttention, (Written(place, "width", 16),))


class LowRank(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(2, columns))
        self.up = nn.Parameter(torch.randn(rows, 2))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "kind", ["weight_norm", "old weight_norm", "old spectral_norm", "low rank"]
)
def test_weights_computed_from_others(kind: str) -> None:
    torch.manual_seed(0)
    net = Dense()
    for layer in (net.a, net.b):
        if kind == "weight_norm":
            parametrizations.weight_norm(layer)
        elif kind == "old weight_norm":
            nn.utils.weight_norm(layer)
        elif kind == "old spectral_norm":
            nn.utils.spectral_norm(layer)
        else:
            low = LowRank(*layer.weight.shape)
            parametrize.register_parametrization(layer, "weight", low)
    found = pruned(net.eval(), image(2, 6), live=False, channels=0.5)
    module = found.module
    assert list(module.state_dict()) == list(net.state_dict())
    assert module.b.out_features == module.c.in_features == 16
    module.train()
    module(**image(2, 6)).square().sum().backward()
    grads = [p.grad for p in module.b.parameters() if p.requires_grad]
    assert all(g is not None and bool(g.abs().sum() > 0) for g in grads)


def test_the_remedy_for_a_parametrization_is_named() -> None:
    net = Dense()
    parametrizations.weight_norm(net.b)
    found = pruned(net.eval(), image(2, 6), live=False, channels=0.5)
    kept = nets.own_class(found.captured, found.plan, found.edits, lambda module: "outputs differ")
    assert kept.module is None
    assert "remove_parametrizations(module.b, 'weight')" in kept.why


def llama() -> nn.Module:
    from models_zoo.builders.torchvision_shim import torchvision

    torchvision()
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        head_dim=8,
        use_cache=False,
        max_position_embeddings=16,
    )
    return transformers.LlamaForCausalLM(config)


def test_a_configuration_says_the_sizes_if_it_can() -> None:
    pytest.importorskip("transformers")
    ids = {"input_ids": torch.randint(0, 60, (2, 9))}
    found = pruned(llama(), ids, channels=0.5, residual=True)
    config = found.module.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 2, 24)
    assert "config.hidden_size: 32 -> 16" in found.kept.changed
    again = type(found.module)(config)
    again.load_state_dict(found.module.state_dict())
    assert found.check(again) == ""
    assert found.captured.module.config.hidden_size == 32


def test_a_configuration_that_would_mislead_is_left() -> None:
    """Built with heads of another size, the class would load the weights and scale by another number."""
    pytest.importorskip("transformers")
    ids = {"input_ids": torch.randint(0, 60, (2, 9))}
    found = pruned(llama(), ids, head_dims=0.5)
    assert found.module.model.layers[0].self_attn.head_dim == 4
    assert found.module.config.head_dim == 8
