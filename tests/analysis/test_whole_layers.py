"""Layers in graphs written as steps: what closes a block, what chains repeat, what is no layer."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.analysis.layers import Layer, Step, find_layers


def kinds(steps: Sequence[Step], **others: str) -> dict[str, str]:
    """Every value of one kind, unless another is given."""
    names = [v for s in steps for v in (*s.inputs, *s.outputs)]
    return {**dict.fromkeys(names, "wide"), **others}


def work(source: str, output: str, op: str = "MatMul", owner: str = "") -> Step:
    return Step(op, (source,), (output,), works=True, owner=owner)


def add(one: str, other: str, output: str) -> Step:
    return Step("Add", (one, other), (output,), adds=True)


def plain(op: str, source: str, output: str) -> Step:
    return Step(op, (source,), (output,))


def ends(layers: Sequence[Layer]) -> list[tuple[str, str]]:
    return [(layer.source, layer.output) for layer in layers]


def pre_norm(count: int) -> list[Step]:
    """Attention (two contractions) and MLP (one), each behind a norm and added to what came in."""
    steps, here = [], "x"
    for i in range(count):
        steps += [
            plain("Norm", here, f"n{i}"),
            work(f"n{i}", f"q{i}", owner=f"blocks.{i}.attn.q.weight"),
            work(f"q{i}", f"a{i}", "Attention", owner=f"blocks.{i}.attn.o.weight"),
            add(here, f"a{i}", f"h{i}"),
            plain("Norm", f"h{i}", f"m{i}"),
            work(f"m{i}", f"f{i}", owner=f"blocks.{i}.mlp.weight"),
            add(f"h{i}", f"f{i}", f"y{i}"),
        ]
        here = f"y{i}"
    return [*steps, plain("Norm", here, "out")]


def test_attention_and_mlp_are_one_layer() -> None:
    steps = pre_norm(3)
    found = find_layers(steps, kinds(steps))
    assert ends(found) == [("x", "y0"), ("y0", "y1"), ("y1", "y2")]
    assert [layer.name for layer in found] == ["blocks.0", "blocks.1", "blocks.2"]
    assert {layer.blocks for layer in found} == {2}


def test_the_norm_behind_the_last_layer_is_not_part_of_it() -> None:
    steps = [*pre_norm(2)]
    assert find_layers(steps, kinds(steps))[-1].output == "y1"


def test_a_norm_behind_each_sum_is() -> None:
    steps, here = [plain("Norm", "x", "e")], "e"
    for i in range(2):
        steps += [work(here, f"f{i}"), add(here, f"f{i}", f"s{i}"), plain("Norm", f"s{i}", f"y{i}")]
        here = f"y{i}"
    steps.append(work(here, "out"))
    assert ends(find_layers(steps, kinds(steps))) == [("e", "y0"), ("y0", "y1")]


def test_so_is_one_that_is_written_out() -> None:
    """A norm of several steps, some of which read the sum twice."""

    def norm(source: str, output: str) -> list[Step]:
        return [
            plain("Mean", source, f"{output}.m"),
            Step("Sub", (source, f"{output}.m"), (f"{output}.d",)),
            plain("Var", f"{output}.d", f"{output}.v"),
            Step("Div", (f"{output}.d", f"{output}.v"), (output,)),
        ]

    steps, here = norm("x", "e"), "e"
    for i in range(2):
        steps += [work(here, f"f{i}"), add(here, f"f{i}", f"s{i}"), *norm(f"s{i}", f"y{i}")]
        here = f"y{i}"
    steps.append(work(here, "out"))
    assert ends(find_layers(steps, kinds(steps))) == [("e", "y0"), ("y0", "y1")]


def test_a_relu_in_front_of_which_there_was_none_stays() -> None:
    steps = [
        plain("MaxPool", "x", "p"),
        work("p", "f"),
        add("p", "f", "s"),
        plain("Relu", "s", "y"),
        work("y", "out"),
    ]
    assert ends(find_layers(steps, kinds(steps))) == [("p", "s")]


def test_a_block_that_changes_the_width_is_none() -> None:
    steps = [work("x", "f"), work("x", "short"), add("short", "f", "y")]
    assert find_layers(steps, kinds(steps)) == ()
    steps = [work("x", "f"), add("x", "f", "y")]
    assert find_layers(steps, kinds(steps, x="narrow")) == ()
    assert ends(find_layers(steps, kinds(steps))) == [("x", "y")]


def test_a_sum_without_work_inside_is_none() -> None:
    steps = [plain("Relu", "x", "r"), add("x", "r", "y"), work("y", "out")]
    assert find_layers(steps, kinds(steps)) == ()


def test_a_skip_over_everything_is_left_to_what_is_inside() -> None:
    steps = [*pre_norm(2)[:-1], add("x", "y1", "out")]
    assert ends(find_layers(steps, kinds(steps))) == [("x", "y0"), ("y0", "y1")]


def test_two_branches_of_one_block_leave_together() -> None:
    """`x + attention(x) + mlp(x)`, as in GPT-J."""
    steps = [
        work("x", "a", "Attention", "h.0.attn.weight"),
        work("x", "f", owner="h.0.mlp.weight"),
        add("a", "f", "t"),
        add("t", "x", "y"),
        work("y", "out"),
    ]
    found = find_layers(steps, kinds(steps))
    assert ends(found) == [("x", "y")]
    assert found[0].name == "h.0"


def test_names_without_a_common_part_are_those_of_their_outputs() -> None:
    steps = [work("x", "f"), add("x", "f", "y"), work("y", "g", "Conv"), add("y", "g", "z")]
    found = find_layers(steps, kinds(steps))
    assert [layer.name for layer in found] == ["layer@y", "layer@z"]
