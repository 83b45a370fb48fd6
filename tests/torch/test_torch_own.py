from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

import own_nets as nets  # noqa: E402
from own_nets import image, pruned  # noqa: E402

from graphprune.torch.capture import read  # noqa: E402


def lives_on(found: nets.Pruned, inputs: dict[str, torch.Tensor]) -> None:
    """The result trains, keeps its class and keys, copies, pickles, compiles and exports."""
    module, original = found.module, found.captured.module
    assert original is not None
    assert isinstance(module, type(original))
    assert list(module.state_dict()) == list(original.state_dict())
    smaller = sum(p.numel() for p in module.parameters())
    assert smaller < sum(p.numel() for p in original.parameters())
    module.train()
    assert module.training
    assert all(m.training for m in module.modules())
    leaf = next(t for t in torch.utils._pytree.tree_leaves(module(**inputs)) if t.requires_grad)
    leaf.square().mean().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())
    module.zero_grad()
    module.eval()
    assert found.check(copy.deepcopy(module)) == ""
    assert found.check(pickle.loads(pickle.dumps(module))) == ""
    with torch.no_grad():
        plain = torch.utils._pytree.tree_leaves(module(**inputs))[0]
        compiled = torch.compile(module, backend="eager")(**inputs)
        torch.testing.assert_close(torch.utils._pytree.tree_leaves(compiled)[0], plain)
        program = torch.export.export(module, (), dict(inputs), strict=False).module()
        torch.testing.assert_close(
            torch.utils._pytree.tree_leaves(program(**inputs))[0], plain, rtol=1e-4, atol=1e-5
        )


def test_grouped_convolutions_follow_from_their_weights() -> None:
    inputs = image(2, 3, 8, 8)
    found = pruned(nets.Grouped(), inputs, channels=0.5)
    assert found.kept.why == "attributes of standard layers"
    module = found.module
    depthwise, grouped = module.get_submodule("depthwise"), module.get_submodule("grouped")
    assert depthwise.groups == depthwise.in_channels == module.get_submodule("stem").out_channels
    assert grouped.in_channels == depthwise.out_channels < 32
    assert module.get_submodule("norm").num_features == depthwise.in_channels
    assert module.get_submodule("instance").num_features == module.get_submodule("up").out_channels
    assert any(c.startswith("depthwise.groups: 32 -> ") for c in found.kept.changed)
    lives_on(found, inputs)


def test_the_original_stays_as_it_is() -> None:
    net, inputs = nets.Grouped(), image(2, 3, 8, 8)
    nets.enliven(net, inputs, 0)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    attributes = {p: dict(m.__dict__) for p, m in net.named_modules()}
    pruned(net, inputs, live=False, channels=0.5)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    for path, module in net.named_modules():
        for name, value in module.__dict__.items():
            if not name.startswith("_"):
                assert value == attributes[path][name], (path, name)


def test_torch_s_attention_loses_heads_and_dims() -> None:
    inputs = {"x": image(2, 7, 32)["x"]}
    heads = pruned(nets.Encoder(), inputs, heads=0.5)
    attention = heads.module.get_submodule("layers.layers.0.self_attn")
    assert attention.num_heads == 2
    assert attention.in_proj_weight.shape == (48, 32)
    assert isinstance(attention, torch.nn.MultiheadAttention)
    lives_on(heads, inputs)
    dims = pruned(nets.Encoder(), inputs, head_dims=0.5)
    attention = dims.module.get_submodule("layers.layers.0.self_attn")
    assert (attention.num_heads, attention.query_dim) == (4, 4)
    assert attention.scale == pytest.approx(8**-0.5)
    assert dims.kept.why == "attributes of standard layers"


def test_an_encoder_of_pruned_attention_leaves_torch_s_fused_path() -> None:
    inputs = {"x": image(2, 7, 32)["x"]}
    found = pruned(nets.Encoder(), inputs, heads=0.5)
    layers = found.module.get_submodule("layers").eval()
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    hidden[1, 4:] = True
    with torch.no_grad():  # nested tensors and the fused kernel know no such widths
        padded = layers(inputs["x"], src_key_padding_mask=hidden)
        short = layers(inputs["x"][1:, :4])
    torch.testing.assert_close(padded[1:, :4], short)


def test_sizes_are_traced_to_attributes() -> None:
    inputs = image(2, 7, 6)
    found = pruned(nets.Blocks(nets.Attention), inputs, heads=0.5)
    assert found.kept.why.startswith("sizes of forward traced to attributes: blocks.0.")
    attention = found.module.get_submodule("blocks.2")
    assert (attention.num_heads, attention.head_dim, attention.attn_dim) == (2, 8, 16)
    assert "blocks.2.attn_dim: 32 -> 16" in found.kept.changed
    lives_on(found, inputs)


def test_a_scale_from_a_size_is_folded_into_the_queries() -> None:
    inputs = image(2, 7, 6)
    found = pruned(nets.Blocks(nets.Attention), inputs, head_dims=0.5)
    assert "folded into 'blocks.0.qkv.weight' (times 0.7071)" in found.kept.why
    attention = found.module.get_submodule("blocks.0")
    original = read(found.captured.module, "blocks.0")
    assert (attention.num_heads, attention.head_dim) == (4, 4)
    [cut] = next(u.cuts for u in found.plan.initializers if u.initializer == "blocks.0.qkv.weight")
    taken = original.qkv.weight[torch.from_numpy(cut.kept)]
    ratio = (attention.qkv.weight / taken).mean(1)
    torch.testing.assert_close(ratio[:16], torch.full((16,), 0.5**0.5))
    torch.testing.assert_close(ratio[16:], torch.ones(32))
    factor = found.kept.folded["blocks.0.qkv.weight"]
    assert factor.shape == (96, 32)
    torch.testing.assert_close(factor[:32], torch.full_like(factor[:32], 0.5**0.5))
    assert bool((factor[32:] == 1).all())
    lives_on(found, inputs)


def test_nothing_is_folded_where_that_is_not_wanted() -> None:
    found = pruned(nets.Blocks(nets.Attention), image(2, 7, 6), head_dims=0.5)
    kept = nets.own_class(found.captured, found.plan, found.edits, found.check, fold=False)
    assert kept.module is None
    assert "differ" in kept.why


def test_sizes_are_written_where_no_attribute_says_them() -> None:
    inputs = image(2, 7, 6)
    found = pruned(nets.Blocks(nets.WrittenAttention), inputs, heads=0.5)
    assert found.kept.why.startswith("sizes written into methods: WrittenAttention.forward: ")
    attention = found.module.get_submodule("blocks.0")
    assert isinstance(attention, nets.WrittenAttention)
    assert any(c == "blocks.0.forward: C -> 16" for c in found.kept.changed)
    lives_on(found, inputs)
    buffer = io.BytesIO()
    torch.save(found.module, buffer)
    buffer.seek(0)
    assert found.check(torch.load(buffer, weights_only=False)) == ""
    kept = nets.own_class(found.captured, found.plan, found.edits, found.check, write=False)
    assert kept.module is None
    assert "would have to be 2 and 4" in kept.why


def test_equal_pieces_become_unequal_ones() -> None:
    inputs = image(2, 3, 4, 4)
    found = pruned(nets.Chunked(), inputs, channels=0.7)
    lives_on(found, inputs)


def test_a_recurrent_layer_is_smaller() -> None:
    inputs = image(2, 5, 6)
    found = pruned(nets.Recurrent(), inputs, channels=0.5)
    lstm = found.module.get_submodule("lstm")
    assert lstm.hidden_size == 6
    assert all(
        a is b
        for a, b in zip(
            lstm._flat_weights, (getattr(lstm, n) for n in lstm._flat_weights_names), strict=True
        )
    )
    lives_on(found, inputs)


def test_tied_weights_stay_tied() -> None:
    ids = {"ids": torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(0))}
    found = pruned(nets.Tied(), ids, channels=0.5, residual=True)
    module = found.module
    assert module.get_submodule("out").weight is module.get_submodule("tokens").weight
    assert module.get_submodule("tokens").embedding_dim == module.get_submodule("out").in_features
    lives_on(found, ids)


def test_hooks_go_on_working() -> None:
    net, inputs = nets.Grouped(), image(2, 3, 8, 8)
    seen: list[tuple[int, ...]] = []
    net.stem.register_forward_hook(lambda m, a, y: seen.append(tuple(y.shape)))
    found = pruned(net, inputs, channels=0.5)
    seen.clear()
    found.module(**inputs)
    assert seen == [(2, 16, 8, 8)]


def test_bert_keeps_its_class() -> None:
    pytest.importorskip("transformers")
    ids = torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    found = pruned(nets.bert(), {"input_ids": ids}, head_dims=0.5)
    attention = found.module.get_submodule("encoder.layer.0.attention.self")
    assert attention.attention_head_size == 4
    assert attention.scaling == pytest.approx(8**-0.5)
    lives_on(found, {"input_ids": ids})


def test_only_a_graph_has_no_class_to_keep() -> None:
    found = pruned(nets.Grouped(), image(2, 3, 8, 8), channels=0.5)
    program = torch.export.export(found.captured.module, (), dict(found.captured.kwargs))
    captured = nets.capture(program)
    kept = nets.own_class(captured, found.plan, (), lambda module: "")
    assert kept.module is None
    assert kept.why == "only a graph was given, no module"


def test_a_candidate_that_differs_is_never_returned() -> None:
    found = pruned(nets.Grouped(), image(2, 3, 8, 8), channels=0.5)
    kept = nets.own_class(found.captured, found.plan, found.edits, lambda module: "it differs")
    assert kept.module is None
    assert kept.why == "it differs"
