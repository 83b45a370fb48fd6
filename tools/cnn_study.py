"""What the literature says of pruning CNNs, on trained CNNs: docs/cnn.md.

    python -m tools.cnn_study --folder FOLDER [--data FOLDER] [--epochs 2] [--train 20000]
        [--images 2000] [--probe-images 1000] [--kept 0.75 0.5] [--seeds 0 1 2]
        [--large alexnet vgg16 resnet50] [--unscored text-angle] [--page docs/cnn.md]

Four parts: where parameters and MACs are; accuracy by criterion of filters, as cut and refitted; damage
of each layer alone; whether sparse layers are the ones that can be cut. FOLDER keeps the small net that
is trained here and, in study.json, every measurement: what is there is not measured again (one FOLDER
for one setting). --page writes tables between the marks of an existing page, and pictures beside it.
--large: architectures of torchvision that are counted; --unscored: nets of the zoo that take part where
damage is enough, without accuracy; both may be empty. --data: Fashion-MNIST's four files; --images and
--probe-images: how many test images are scored by criterion and by layer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import graphprune
from graphprune import zoo
from graphprune.data.metric import Metric, load_metric
from models_zoo.recipes.fashion import DEBIAN_FOLDER
from tools._common import Record, Results
from tools.cnn_filters import Filters, costs
from tools.cnn_nets import Pictures, nets, read_pictures
from tools.cnn_page import write

OWN = ("filter L1", "filter zeros")
WEIGHTS = ("random", "l1", "l2")
DATA = ("apoz", "activation", "wanda", "flap", "energy", "taylor")
CALIBRATED = 128
FRACTIONS = (0.25, 0.5, 0.75)


def large(name: str) -> list[Record]:
    """Layers of an architecture of torchvision at 224 x 224, with random weights."""
    from models_zoo.builders.export import export
    from models_zoo.builders.torchvision_models import Classifier
    from models_zoo.builders.torchvision_shim import torchvision

    module = Classifier(torchvision().models.get_model(name, weights=None))
    return costs(export(module, (torch.zeros(1, 3, 224, 224),), dynamic=False))


def original(net: Filters, metric: Metric) -> Record:
    """Accuracy before anything is cut."""
    return {"accuracy": metric(net.model)}


def by_criterion(net: Filters, job: Record, pictures: Pictures, metric: Metric) -> Record:
    """Accuracy of convolutions that keep a part of their channels, as cut and refitted."""
    criterion, seed = job["criterion"], job["seed"]
    given: dict[str, Any] = {"bench": False, "verify": False, "align": 1, "seed": seed}
    calib = pictures.calibration(seed, CALIBRATED)
    chosen = {**given, "channels": job["kept"], "only": net.convolutional()}
    if criterion in OWN:
        chosen["scores"] = net.scores(criterion)
    else:
        chosen["criterion"] = criterion
    refitted = graphprune.compile(net.path, calib=calib, **chosen)
    cut = graphprune.compile(net.path, plan=refitted.plan, **given)
    report = cut.report
    return {
        "as cut": metric(cut.model),
        "refitted": metric(refitted.model),
        "macs": report.pruned.macs / report.original.macs,
        "params": report.pruned.params / report.original.params,
    }


def by_layer(net: Filters, calib: Any, metric: Any) -> Record:
    """Damage of each group alone, cut by L1 norms and compensated, and how sparse its filters are."""
    found, _ = graphprune.sensitivity(
        net.path,
        criterion="l1",
        align=1,
        calib=calib,
        calib_samples=CALIBRATED,
        eval=metric,
        fractions=FRACTIONS,
    )
    facts = {
        g.name: {"kind": g.kind, "read smaller": net.read_smaller(g), **net.shares(g)}
        for g in net.graph.groups
    }
    return {**json.loads(found.dumps()), "facts": facts}


def jobs(
    given: argparse.Namespace, pictures: Pictures, paths: dict[str, Path]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Key and measurement, in the order of the parts; of criteria a whole round a seed."""
    filters = {name: Filters.of(path) for name, path in paths.items()}
    for name in given.large:
        yield f"costs | {name}", partial(large, name)
    for name, net in filters.items():
        yield f"costs | {name}", partial(costs, net.path)
    calib, probe = pictures.calibration(0, CALIBRATED), pictures.metric(given.probe_images)
    for name, net in filters.items():
        yield f"layers | {name}", partial(by_layer, net, calib, probe)
    metric = load_metric(pictures.metric(given.images))
    for name, net in filters.items():
        yield f"original | {name}", partial(original, net, metric)
    for entry in map(zoo.get, given.unscored):
        filters_of = Filters.of(entry.path)
        yield f"layers | {entry.name}", partial(by_layer, filters_of, entry.calibration(), None)
    for seed in given.seeds:
        for name, net in filters.items():
            for kept in given.kept:
                for criterion in (*WEIGHTS, *OWN, *DATA):
                    job = {"criterion": criterion, "kept": kept, "seed": seed}
                    yield (
                        f"filters | {name} | {criterion} | {kept:g} | {seed}",
                        partial(by_criterion, net, job, pictures, metric),
                    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure what is missing, write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cnn_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--probe-images", type=int, default=1_000)
    parser.add_argument("--kept", type=float, nargs="+", default=[0.75, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--large", nargs="*", default=["alexnet", "vgg16", "resnet50"])
    parser.add_argument("--unscored", nargs="*", default=["text-angle"])
    parser.add_argument("--page", type=Path)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    setting = {n: getattr(given, n) for n in ("epochs", "train", "images", "probe_images")}
    known = given.folder / "setting.json"
    if known.exists() and json.loads(known.read_text()) != setting:
        parser.error(f"{given.folder} holds measurements of another setting: give another --folder")
    known.write_text(json.dumps(setting))
    pictures = read_pictures(given.data, given.train, max(given.images, given.probe_images))
    paths = nets(pictures, given.epochs, given.folder)
    results = Results(given.folder / "study.json")
    for key, measure in jobs(given, pictures, paths):
        if key not in results.records:
            results.add(key, measure())
            print(key, flush=True)
    if given.page:
        write(results.records, given.page)
    return results.records


if __name__ == "__main__":
    main()
