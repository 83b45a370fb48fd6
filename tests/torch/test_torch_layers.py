"""Whole layers that leave a module: found, chosen, its class kept, training and files that go on."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import onnx_ir as ir  # noqa: E402
import onnxruntime as ort  # noqa: E402
from layer_nets import Block, Vit, image, resnet, vit  # noqa: E402

import graphprune  # noqa: E402
import graphprune.torch as gpt  # noqa: E402
from graphprune.errors import CertificateError, NothingGainedError, UsageError  # noqa: E402
from graphprune.plan import LayerCut, Plan  # noqa: E402
from graphprune.torch.bypass import check_shortened  # noqa: E402
from graphprune.torch.capture import capture  # noqa: E402
from graphprune.torch.layers import layers_of  # noqa: E402
from graphprune.torch.modules import PassThrough  # noqa: E402
from graphprune.torch.onnx_export import onnx_program  # noqa: E402
from graphprune.torch.shorten import shortened  # noqa: E402
from models_zoo.builders.torchvision_shim import torchvision  # noqa: E402

torch.set_num_threads(1)


def bert(depth: int = 3) -> Any:
    torchvision()  # transformers imports it where it is installed
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = hf.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=depth,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return hf.BertForSequenceClassification(config)


def ids() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"input_ids": torch.randint(0, 50, (2, 7), generator=generator)}


def zoo(family: str, name: str) -> tuple[Any, tuple[Any, ...]]:
    sample = importlib.import_module(f"models_zoo.builders.{family}_models").sample(name)
    return sample.module, tuple(sample.inputs.values())


CASES = {
    "vit": lambda: (vit(), (image(),)),
    "resnet": lambda: (resnet(), (image(),)),
    "bert": lambda: zoo("transformers", "bert"),
    "llama": lambda: zoo("transformers", "llama"),
    "swin": lambda: zoo("transformers", "swin"),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_are_those_of_the_export(name: str) -> None:
    if name in ("bert", "llama", "swin"):
        pytest.importorskip("transformers")
    module, args = CASES[name]()
    module.eval()
    wanted = graphprune.layers(onnx_program(module, args, optimize=False))
    found = layers_of(capture(module, args))
    assert [layer.name for layer in found] == [layer.name for layer in wanted]
    assert len(found) > 1


def test_a_layer_starts_behind_the_dropout_in_front_of_it() -> None:
    captured = capture(vit(), (image(),))
    first = layers_of(captured)[0]
    assert captured.training
    assert first.name == "blocks.0"
    assert next(n for n in captured.nodes if n.name == first.source).target is not None
    assert "dropout" in first.source


def test_elements_of_a_list_are_deleted_and_what_counts_them_follows() -> None:
    module = vit()
    result = gpt.prune(module, image(), layers=0.5)
    assert result.kind == "module", result.why
    assert type(result.module) is Vit
    assert result.module.depth == len(result.module.blocks) == 2
    assert [b.place for b in result.module.blocks] == [0, 1]
    assert module.depth == len(module.blocks) == 4
    gone = {int(cut.name.rpartition(".")[2]) for cut in result.plan.layers}
    left = [i for i in range(4) if i not in gone]
    by_hand = copy.deepcopy(module)
    by_hand.blocks = torch.nn.ModuleList(by_hand.blocks[i] for i in left)
    by_hand.depth = 2
    with torch.no_grad():
        assert torch.equal(by_hand.eval()(image()), result.module.eval()(image()))
    assert result.report.pruned.params == sum(p.numel() for p in by_hand.parameters())
    assert result.report.certificate["status"] == "exact"
    assert [cut.name for cut in result.report.layers] == [c.name for c in result.plan.layers]


def test_the_layer_that_does_nothing_leaves_first() -> None:
    module = vit()
    with torch.no_grad():
        for part in (module.blocks[2].out, module.blocks[2].fc2):
            part.weight.zero_()
            part.bias.zero_()
    for criterion in ("damage", "cosine"):
        result = gpt.prune(
            module, image(), layers=0.75, layer_criterion=criterion, own=False, verify=False
        )
        assert [cut.name for cut in result.plan.layers] == ["blocks.2"]
        assert result.plan.layers[0].score == pytest.approx(0, abs=1e-6)


def test_inputs_decide_and_another_batch_size_does() -> None:
    module = vit()
    batches = [torch.randn(5, 3, 12, 12), {"x": torch.randn(3, 3, 12, 12)}]
    result = gpt.prune(module, image(), layers=0.5, inputs=batches, own=False, verify=False)
    assert len(result.plan.layers) == 2
    with pytest.raises(UsageError, match="does not run on inputs="):
        gpt.prune(module, image(), layers=0.5, inputs=[torch.randn(2, 4, 12, 12)], verify=False)
    with pytest.raises(UsageError, match="holds no batch"):
        gpt.prune(module, image(), layers=0.5, inputs=[], verify=False)


def test_modules_that_are_no_elements_hand_their_input_on() -> None:
    module = resnet()
    result = gpt.prune(module, image(), layers=0.6, channels=0.5, align=1)
    assert result.kind == "module", result.why
    (cut,) = result.plan.layers
    assert isinstance(result.module.get_submodule(cut.name), PassThrough)
    assert not isinstance(module.get_submodule(cut.name), PassThrough)
    assert result.plan.initializers
    assert not any(key.startswith(f"{cut.name}.") for key in result.module.state_dict())
    result.module.train()(image()).sum().backward()
    assert all(p.grad is not None for p in result.module.parameters())


def test_graph_has_nothing_left_of_a_layer() -> None:
    result = gpt.prune(resnet(), image(), layers=0.6, own=False)
    (cut,) = result.plan.layers
    assert not any(key.startswith(f"{cut.name}.") for key in result.module.state_dict())
    assert not any(cut.name in str(n.target) for n in result.module.graph.nodes)


def test_budgets_are_of_the_whole_module() -> None:
    module = vit()
    whole = sum(p.numel() for p in module.parameters())
    result = gpt.prune(module, image(), layers=0.75, params=0.5, align=1, own=False, verify=False)
    assert len(result.plan.layers) == 1
    assert 0.4 * whole < result.report.pruned.params <= 0.5 * whole
    alone = gpt.prune(module, image(), layers="auto", params=0.6, own=False, verify=False)
    assert len(alone.plan.layers) == 2
    assert not alone.plan.initializers
    assert alone.report.pruned.params <= 0.6 * whole


def test_bert_keeps_its_class_its_configuration_and_its_training(tmp_path: Path) -> None:
    module = bert()
    whole = copy.deepcopy(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    average = torch.optim.swa_utils.AveragedModel(module)
    module(**ids()).logits.sum().backward()
    optimizer.step()
    result = gpt.prune(
        module, kwargs=ids(), layers=0.7, channels=0.5, align=1,
        optimizer=optimizer, ema=average, inplace=True,
    )  # fmt: skip
    assert result.module is module
    assert type(module) is type(whole)
    assert module.config.num_hidden_layers == len(module.bert.encoder.layer) == 2
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(module.parameters())
    assert set(optimizer.state) <= held
    assert average.module.state_dict().keys() == module.state_dict().keys()
    before = [p.clone() for p in module.parameters()]
    optimizer.zero_grad()
    module(**ids()).logits.sum().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))

    gpt.save(result, tmp_path / "small.safetensors")
    again = gpt.load(tmp_path / "small.safetensors", bert())
    assert again.kind == "module"
    assert again.plan.layers == result.plan.layers
    with torch.no_grad():
        wanted, got = (m.eval()(**ids()).logits for m in (module, again.module))
    assert torch.equal(wanted, got)
    gpt.save_pretrained(again, tmp_path / "folder")
    folder = gpt.from_pretrained(type(whole), tmp_path / "folder")
    with torch.no_grad():
        assert torch.equal(wanted, folder.module.eval()(**ids()).logits)
    gpt.rewind(again.module, whole.state_dict(), again)
    with pytest.raises(UsageError):
        gpt.prune(bert(2), kwargs=ids(), plan=result.plan, verify=False)


def test_averages_as_a_copy_and_as_a_state_dict_follow() -> None:
    module = vit()
    ema, state = copy.deepcopy(module), dict(copy.deepcopy(module).state_dict())
    result = gpt.prune(module, image(), layers=0.5, ema=ema)
    assert ema.state_dict().keys() == result.module.state_dict().keys()
    gpt.prune(module, image(), layers=0.5, ema=state)
    assert state.keys() == result.module.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(ema.eval()(image()), result.module.eval()(image()))


def test_plans_go_from_the_export_to_the_module_and_back() -> None:
    module = vit().eval()
    program = onnx_program(module, (image(),), optimize=False)
    compiled = graphprune.compile(
        program, layers=0.5, channels=0.5, align=1, bench=False, allow_slower=True
    )
    result = gpt.prune(module, image(), plan=compiled.plan)
    assert result.kind == "module", result.why
    names = [cut.name for cut in compiled.plan.layers]
    assert [cut.name for cut in result.plan.layers] == names
    assert len(names) == 2
    assert result.report.pruned.macs == compiled.report.pruned.macs
    session = ort.InferenceSession(
        ir.to_proto(compiled.model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {session.get_inputs()[0].name: image().numpy()})
    with torch.no_grad():
        assert torch.allclose(result.module.eval()(image()), torch.from_numpy(got), atol=1e-4)

    own = gpt.prune(module, image(), layers=0.5, channels=0.5, align=1)
    back = graphprune.compile(program, plan=own.plan, bench=False, allow_slower=True)
    assert [cut.name for cut in back.plan.layers] == [cut.name for cut in own.plan.layers]


def test_what_cannot_be_is_refused_in_one_line() -> None:
    module = vit()
    with pytest.raises(UsageError, match="linear_layers is for ONNX models"):
        gpt.prune(module, image(), layers=0.5, linear_layers=True)
    plan = Plan("other", (), {}, (), layers=(LayerCut("blocks.9", "a", "b"),))
    with pytest.raises(UsageError, match=r"'blocks\.9', which this module does not have"):
        gpt.prune(module, image(), plan=plan)
    with pytest.raises(NothingGainedError, match="no layer or residual block"):
        gpt.prune(torch.nn.Linear(4, 4), torch.randn(2, 4), layers=0.5)
    with pytest.raises(NothingGainedError, match="nothing would leave"):
        gpt.prune(module, image(), layers=1.0)
    with pytest.raises(UsageError, match="leave in one step"):
        gpt.iterative(module, image(), layers=0.5, steps=2, train=lambda *_: None)


def test_a_wrong_shortening_is_noticed() -> None:
    captured = capture(vit(), (image(),))
    layers = [LayerCut(x.name, x.source, x.output) for x in layers_of(captured)]
    check_shortened(captured, shortened(captured, layers[:2]), layers[:2])
    with pytest.raises(CertificateError, match="is not the original"):
        check_shortened(captured, shortened(captured, layers[:2]), layers[:1])


def test_what_stands_for_a_layer_has_its_attributes_and_outputs() -> None:
    block = Block(8, 2, 3)
    stands = PassThrough.instead_of(block, 2)
    x = torch.randn(1, 2, 8)
    assert stands.place == 3
    first, second = stands(1, hidden=x)
    assert first is x
    assert second is None
    assert PassThrough()(x) is x
    assert not list(stands.parameters())
