"""Pruning inside a Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from test_torch_examples import transformers_or_skip  # noqa: E402

transformers_or_skip()

from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from graphprune.errors import UsageError  # noqa: E402
from graphprune.torch.scores import scores_from  # noqa: E402
from graphprune.torch.slicing import parameter_cuts, slice_tensor  # noqa: E402
from graphprune.torch.trainer import PruningCallback  # noqa: E402

TOKENS = torch.randint(0, 20, (64, 6), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": row, "labels": (row < 10).sum() % 2} for row in TOKENS]


def bert(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=8,
        initializer_range=0.3,
    )
    return BertForSequenceClassification(config)


def trainer_of(model, callbacks, folder: Path, **settings) -> Trainer:
    given = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        **settings,
    }
    arguments = TrainingArguments(**given)
    return Trainer(model=model, args=arguments, train_dataset=DATA, callbacks=list(callbacks))


def pruning(**settings) -> PruningCallback:
    given = {"at_steps": (3, 5), "channels": 0.5, "align": 1, **settings}
    return PruningCallback({"input_ids": TOKENS[:2]}, **given)


class Watch(TrainerCallback):
    """Keeps parameters and moments after every step, and the learning rates."""

    def __init__(self) -> None:
        self.seen: dict[int, dict] = {}

    def on_step_end(self, args, state, control, **given) -> None:
        optimizer, model = given["optimizer"], given["model"]
        moments = {
            n: optimizer.state[p]["exp_avg"].clone()
            for n, p in model.named_parameters()
            if p in optimizer.state
        }
        weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.seen[state.global_step] = {
            "optimizer": id(optimizer),
            "moments": moments,
            "weights": weights,
            "lr": given["lr_scheduler"].get_last_lr(),
        }


def bits(model) -> dict[str, bytes]:
    return {n: t.detach().numpy().tobytes() for n, t in model.state_dict().items()}


def test_model_optimizer_and_scheduler_go_on(tmp_path: Path) -> None:
    before, after, plain = Watch(), Watch(), Watch()
    model = bert()
    callback = pruning()
    trainer = trainer_of(model, (before, callback, after), tmp_path)
    result = trainer.train()
    assert result.global_step == 8
    assert trainer.model is model
    assert type(model) is BertForSequenceClassification
    attention = model.bert.encoder.layer[0].attention.self
    assert attention.query.weight.shape == (8, 16)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.shape == (12, 16)
    assert [s.step for s in callback.steps] == [1, 2]
    assert callback.steps[1].params == sum(p.numel() for p in model.parameters())
    assert callback.steps[1].macs < callback.steps[0].macs

    trainer_of(bert(), (plain,), tmp_path).train()
    assert len({v["optimizer"] for v in before.seen.values()}) == 1
    assert all(after.seen[n]["lr"] == plain.seen[n]["lr"] for n in range(1, 9))
    for number, plan in zip((3, 5), callback.plans, strict=True):
        cuts = parameter_cuts(plan)
        assert cuts
        old, new = before.seen[number], after.seen[number]
        for kind in ("weights", "moments"):
            assert old[kind].keys() == new[kind].keys()
            for name, value in old[kind].items():
                assert torch.equal(new[kind][name], slice_tensor(value, cuts.get(name, ()))), name
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert not torch.equal(after.seen[5]["weights"][name], after.seen[8]["weights"][name])


def test_by_epoch_with_scores_and_mixed_precision(tmp_path: Path) -> None:
    """accelerate wraps `forward` for bfloat16; the wrapper is there afterwards too."""
    asked = []

    def scores(model):
        asked.append(model.bert.encoder.layer[0].intermediate.dense.out_features)
        labels = torch.tensor([int(d["labels"]) for d in DATA[:16]])

        def losses():
            yield model(input_ids=TOKENS[:16], labels=labels).loss

        return scores_from(model, losses)

    model = bert()
    callback = pruning(at_steps=(), at_epochs=(1, 2), schedule="linear", scores=scores)
    settings = {"max_steps": -1, "num_train_epochs": 3, "bf16": True}
    trainer = trainer_of(model, (callback,), tmp_path, **settings)
    trainer.train()
    assert asked == [24, 18]
    assert "forward" in vars(model)
    assert len(callback.steps) == 2
    assert model.bert.encoder.layer[0].intermediate.dense.weight.shape == (12, 16)


def test_a_checkpoint_of_the_trainer_goes_on(tmp_path: Path) -> None:
    whole = bert()
    settings = {"save_strategy": "steps", "save_steps": 4}
    trainer_of(whole, (pruning(),), tmp_path, **settings).train()
    checkpoint = tmp_path / "checkpoint-4"
    assert (checkpoint / "graphprune.json").exists()

    model, callback = bert(seed=9), pruning()
    callback.restore(model, checkpoint)
    assert len(callback.steps) == 1
    trainer_of(model, (callback,), tmp_path / "second", **settings).train(
        resume_from_checkpoint=str(checkpoint)
    )
    assert len(callback.steps) == 2
    assert bits(model) == bits(whole)


class TestErrors:
    def test_when(self) -> None:
        for wrong in ({"at_steps": ()}, {"at_epochs": (1,)}):
            with pytest.raises(UsageError, match="say when to prune"):
                pruning(**wrong)

    def test_options_are_checked_before_training(self, tmp_path: Path) -> None:
        callback = PruningCallback({"input_ids": TOKENS[:2]}, at_steps=(2,))
        with pytest.raises(UsageError, match="say what stays"):
            trainer_of(bert(), (callback,), tmp_path).train()

    def test_several_processes(self) -> None:
        with pytest.raises(UsageError, match="works in one process"):
            pruning().on_train_begin(SimpleNamespace(world_size=2), None, None, model=bert())

    def test_checkpoint_without_plans(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="saved without this callback"):
            pruning().restore(bert(), tmp_path)
