"""Builders give live signals, exporters answer alike, the catalogue keeps what it built."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from models_zoo.builders import catalogue, checks

torch = pytest.importorskip("torch")
for package in ("torchvision", "transformers"):  # not imported: torchvision needs the shim first
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed", allow_module_level=True)
from torch import nn  # noqa: E402

from models_zoo.builders.export import export  # noqa: E402
from models_zoo.builders.live import enliven, live_images  # noqa: E402


class Net(nn.Module):
    """Deep enough for signals to die: 12 blocks with a layer scale of 1e-6 and a shared head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(12))
        self.scales = nn.ParameterList(torch.full((16, 1, 1), 1e-6) for _ in range(12))
        self.head = nn.Linear(16, 10)
        self.again = nn.Linear(16, 10)
        self.again.weight = self.head.weight

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(image)))
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x = x + scale * torch.relu(block(x))
        x = x.mean((2, 3))
        return self.head(x) + self.again(x)


def live_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(0)
    return enliven(Net(), {"image": live_images((4, 3, 32, 32), 1)}, seed)


def test_no_parameter_stays_constant_or_equals_another() -> None:
    values = [p.detach().numpy() for p in live_net().parameters()]
    assert all(v.std() > 1e-2 for v in values)
    assert len({v.tobytes() for v in values}) == len(values)


def test_shared_weights_stay_shared() -> None:
    net = live_net()
    assert net.again.weight is net.head.weight


def test_every_branch_matters_on_inputs_never_seen() -> None:
    net = live_net()
    image = live_images((4, 3, 32, 32), 99)
    with torch.no_grad():
        before = net(image)
        assert before.std() > 0.1
        for scale in net.scales:
            kept = scale.clone()
            scale.zero_()
            assert (net(image) - before).abs().max() > 1e-2 * before.std()
            scale.copy_(kept)


def test_the_seed_decides_the_weights() -> None:
    same, other = live_net(0).state_dict(), live_net(1).state_dict()
    for key, value in live_net(0).state_dict().items():
        assert torch.equal(value, same[key])
    assert not torch.equal(same["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("exporter", "opset", "dynamic"),
    [("dynamo", 18, True), ("dynamo", 23, False), ("legacy", 17, True), ("legacy", 18, False)],
)
def test_an_export_has_the_asked_opset_shapes_and_values(
    exporter: str, opset: int, dynamic: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    net, image = live_net(), live_images((2, 3, 32, 32), 7)
    path = tmp_path / "net.onnx"
    model = export(
        net,
        (image,),
        path,
        exporter=exporter,  # type: ignore[arg-type]
        opset=opset,
        dynamic=dynamic,
        output_names=("logits",),
    )
    assert capfd.readouterr() == ("", "")
    assert onnx.load(path) == model
    assert [o.version for o in model.opset_import if o.domain == ""] == [opset]
    (value,) = model.graph.input
    first = value.type.tensor_type.shape.dim[0]
    assert (value.name, first.dim_param or first.dim_value) == ("image", "batch" if dynamic else 2)
    assert [o.name for o in model.graph.output] == ["logits"]
    assert "site-packages" not in str(model.graph.node)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(image).numpy()
    np.testing.assert_allclose(session.run(None, {"image": image.numpy()})[0], expected, atol=1e-4)


def test_without_optimisation_batch_norm_stays() -> None:
    image = live_images((2, 3, 32, 32), 7)
    folded, raw = (export(live_net(), (image,), optimize=o) for o in (True, False))
    assert "BatchNormalization" not in {n.op_type for n in folded.graph.node}
    assert "BatchNormalization" in {n.op_type for n in raw.graph.node}


def test_dynamo_below_its_first_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="legacy"):
        export(live_net(), (live_images((2, 3, 32, 32), 7),), opset=17)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown family"):
        catalogue.names("toys")
    with pytest.raises(ValueError, match="unknown architecture 'resnet19'"):
        catalogue.build("resnet19", cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_architecture_has_one_name() -> None:
    names = catalogue.names()
    assert len(names) == len(set(names))
    assert {"glu", "resnet50", "lraspp_mobilenet_v3_large", "llama", "mamba"} <= set(names)


def test_micro_graphs_need_no_torch() -> None:
    code = "from models_zoo.builders import catalogue as c; c.build(c.names('micro')[0]); "
    code += "import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_cache_is_used_and_file_names_tell_what_was_asked(tmp_path: Path) -> None:
    built = catalogue.build("glu", cache=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["glu.onnx"]
    other = catalogue.build("c2f")
    onnx.save(other, tmp_path / "glu.onnx")
    assert catalogue.build("glu", cache=tmp_path) == other != built
    assert catalogue.filename("a", "legacy", 17, False) == "a.legacy17.static.onnx"
    assert catalogue.filename("a", "dynamo", 18, True, False) == "a.raw.onnx"


def test_a_failure_is_reported_and_the_list_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = catalogue.fill(["nonesuch", "glu"], tmp_path)
    assert list(failures) == ["nonesuch"]
    assert "nonesuch: FAILED ValueError" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["glu.onnx"]


CASES = [
    ("squeezenet1_1", "legacy", 17, True),
    ("mobilenet_v3_small", "dynamo", 18, True),
    ("lraspp_mobilenet_v3_large", "legacy", 18, False),
    ("bert", "dynamo", 18, True),
    ("llama", "dynamo", 23, False),
    ("vit", "legacy", 17, True),
]


@pytest.mark.parametrize(("name", "exporter", "opset", "dynamic"), CASES)
def test_an_architecture_runs_alive(name: str, exporter: str, opset: int, dynamic: bool) -> None:
    model = catalogue.build(name, exporter=exporter, opset=opset, dynamic=dynamic)  # type: ignore[arg-type]
    health = checks.examine(model)
    assert len(health.shapes) == (2 if dynamic else 1)
    assert health.spread > 0.05
    assert health.variation > 0.02
    weights = [
        numpy_helper.to_array(i)
        for i in model.graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT and "." in i.name  # computed tables have no dot
    ]
    large = [w.tobytes() for w in weights if w.size > 8]
    assert len(large) > 5
    assert len(set(large)) == len(large)


def test_huge_networks_lose_repeated_blocks_only() -> None:
    from models_zoo.builders.torchvision_models import shorten

    wide = [nn.Linear(4, 4) for _ in range(5)]
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4, False), *wide))
    shorten(net, keep=2)
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "Sequential"]
    assert [m.bias is None for m in net[2]] == [True, False, False]
    assert net[2][1] is wide[0]
