"""The Trainer of transformers with each method around its steps, beside the plain loop."""

from __future__ import annotations

import copy
from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn
from worlds import Net

pytest.importorskip("accelerate", reason="the Trainer needs accelerate: pip install 'nacre[trainer]'")
from compositions import equal
from transformers import PrinterCallback, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from nacre.core.dice import dice
from nacre.core.errors import BadCheckpoint, BadStep
from nacre.core.kept import Kept
from nacre.core.method import compose
from nacre.core.rule import Rule
from nacre.core.stream import Task
from nacre.heads import GrowingLinear
from nacre.integrations import stage
from nacre.integrations.transformers import ContinualMixin, ContinualTrainer
from nacre.methods import ER, MIST
from tests.integrations import loops
from tests.integrations.loops import CLIP, DECAY, EPOCHS, METHODS, RATE, SEED, SIZE, far, learned, plain

SAVED = 4  # steps before the checkpoint, in the middle of the second epoch


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Accelerate walks over all objects when a training begins, and checkpoints wait for the disk: most of a run."""
    monkeypatch.setattr("accelerate.utils.memory.gc.collect", lambda: 0)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def arguments(folder: Path, accumulate: int = 1, **told) -> TrainingArguments:
    usual = {
        "per_device_train_batch_size": SIZE // accumulate, "gradient_accumulation_steps": accumulate,
        "num_train_epochs": EPOCHS, "learning_rate": RATE, "weight_decay": DECAY, "max_grad_norm": CLIP, "seed": SEED,
        "optim": "adamw_torch", "save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True,
        "dataloader_pin_memory": False, "use_cpu": True,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**usual, **told})


def items(task: Task) -> list[dict]:
    """The rows of a task as a dataset has them, with a column that no model reads."""
    rows = task.train.take(torch.arange(task.rows))
    return [{"x": x, "label": int(y), "told": "a text"} for x, y in zip(rows.x["x"], rows.y, strict=True)]


def trainer(task: Task, model: nn.Module, method: Rule, folder: Path, also=None, **told) -> ContinualTrainer:
    whole = bool(task.owners)  # joined and accumulated tasks know more than their rows
    given = {"task": task} if whole else {"task": task.index, "train_dataset": items(task)}
    args = arguments(folder, **told)
    made = ContinualTrainer(model, args, method=method, **{"augment": loops.noise, **given, **(also or {})})
    made.remove_callback(PrinterCallback)
    return made


def theirs(folder: Path, resume: Path | None = None, **told):
    def learn(task: Task, model: nn.Module, method: Rule) -> None:
        saves = {"save_strategy": "steps", "save_steps": SAVED} if task.index or task.owners else {}  # the last task
        trainer(task, model, method, folder / f"task{task.index}", **saves, **told).train(resume)

    return learn


@pytest.mark.parametrize("name", METHODS)
def test_a_trainer_ends_where_the_plain_loop_ends_and_resumes_to_the_bit(name, tmp_path):
    accumulate = 2
    mine, _, moved = learned(name, plain(accumulate))
    model, method, leaked = learned(name, theirs(tmp_path, accumulate=accumulate))
    assert far(mine, model) <= 1e-6, f"{name}: the weights end {far(mine, model):.1e} apart"
    assert moved == leaked == []

    last = loops.tasks(method)[-1]
    again, fresh = Net(), loops.method_of(name)
    trainer(last, again, fresh, tmp_path / "again", accumulate=accumulate).train(
        str(tmp_path / f"task{last.index}" / f"checkpoint-{SAVED}")
    )
    assert equal(again.state_dict(), model.state_dict()), (
        f"{name}: resumed, the weights end {far(again, model):.1e} apart"
    )
    assert equal(fresh.state_dict(), method.state_dict()), f"{name}: resumed, the method knows something else"


# ------------------------------------------------------------------------------------------ what goes wrong in such loops


def sgd(named: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(named.values(), lr=RATE)


def simple() -> Net:
    """A model in which the mean over micro-batches is that over rows, within rounding."""
    return Net(norm=False, dropout=0.0)


def uneven(folder: Path) -> float:
    """How far the trainer ends from the plain loop where the last step has micro-batches of 4 and of 2 rows."""
    told = {"rows": 7, "net": simple}
    mine, _, _ = learned("fine-tuning", plain(make=sgd, augment=None), **told)
    model, _, _ = learned(
        "fine-tuning", theirs(folder, also={"augment": None}, accumulate=2, optim="sgd", weight_decay=0.0), **told
    )
    return far(mine, model)


def test_micro_batches_count_by_their_rows(tmp_path, monkeypatch):
    assert uneven(tmp_path) <= 1e-6
    monkeypatch.setattr(ContinualTrainer, "loss_is_scaled_for_ga", False)
    assert uneven(tmp_path / "divided again") > 1e-4

    def alike(self, epoch_iterator, num_batches, device):
        found, items = super(ContinualMixin, self).get_batch_samples(epoch_iterator, num_batches, device)
        self._shares = deque([1 / len(found)] * len(found))
        return found, items

    monkeypatch.setattr(ContinualTrainer, "loss_is_scaled_for_ga", True)
    monkeypatch.setattr(ContinualMixin, "get_batch_samples", alike)
    assert uneven(tmp_path / "counted alike") > 1e-4


def test_a_state_that_is_not_taken_over_a_rest_that_leaks_and_a_replay_that_is_lost_are_seen(tmp_path, monkeypatch):
    name = "MIST-EWC-ER"
    model, method, moved = learned(name, theirs(tmp_path))
    assert not moved and method.members[2].memory.seen == 96
    last = loops.tasks(method)[-1]
    here = tmp_path / "task1" / f"checkpoint-{SAVED}"

    def resumed(folder: str) -> Net:
        again, fresh = Net(), loops.method_of(name)
        trainer(last, again, fresh, tmp_path / folder).train(str(here))
        return again

    assert equal(resumed("again").state_dict(), model.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(stage, "take_over", lambda tree, method, model, task: loops.grown(model, tree))
        assert far(resumed("forgetful"), model) > 1e-4
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "put_back", lambda self: None)
        with pytest.raises(BadStep, match="moved that were asked to rest"):
            learned(name, theirs(tmp_path / "leaks"))
    with monkeypatch.context() as patch:
        patch.setattr(ER, "shape_batch", lambda self, batch: batch)
        assert far(learned(name, theirs(tmp_path / "lost"))[0], model) > 1e-4


def test_parts_of_a_method_are_clipped_with_the_model_and_their_gradients_end_with_the_step(tmp_path, monkeypatch):
    mine = learned("MIST-0", plain())[0]
    monkeypatch.setattr(ContinualMixin, "_clip_grad_norm", Trainer._clip_grad_norm)
    assert far(mine, learned("MIST-0", theirs(tmp_path))[0]) > 1e-4
    monkeypatch.undo()
    monkeypatch.setattr(ContinualMixin, "_stepped", lambda self: self.drive.stepped())
    assert far(mine, learned("MIST-0", theirs(tmp_path))[0]) > 1e-4


def test_bf16_is_that_of_the_plain_loop(tmp_path):
    mine, _, _ = learned("MIST-EWC-ER", plain(precision="bf16"))
    model, _, moved = learned("MIST-EWC-ER", theirs(tmp_path, bf16=True))
    assert far(mine, model) <= 1e-6 and not moved
    assert far(mine, learned("MIST-EWC-ER", plain())[0]) > 1e-4


def right(told) -> dict[str, float]:
    return {"right": float((told.predictions.argmax(1) == told.label_ids).mean())}


def test_evaluating_on_the_way_disturbs_nothing(tmp_path):
    def watched(task: Task, model: nn.Module, method: Rule) -> None:
        also = {"eval_dataset": items(task), "compute_metrics": right}
        made = trainer(task, model, method, tmp_path, also, eval_strategy="steps", eval_steps=2)
        made.train()
        found = made.evaluate()
        assert found["eval_right"] > 0.5

    name = "ER-0"
    assert equal(learned(name, watched)[0].state_dict(), learned(name, theirs(tmp_path))[0].state_dict())


# ------------------------------------------------------------------------------------------------- models of transformers


def vit() -> ViTForImageClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=2, **sizes))


def pictures(classes: tuple[int, int]) -> list[dict]:
    made = torch.randn(16, 1, 8, 8, generator=dice("pictures", *classes))
    return [{"pixel_values": x + c, "label": c} for x, c in zip(made, classes * 8, strict=True)]


def test_a_model_of_transformers_grows_is_read_for_features_and_loads_again(tmp_path):
    model, method = vit(), compose(MIST(width=8, batch=16, free="bias|norm|^classifier"), ER(rows=4))
    model.classifier = GrowingLinear(16)
    for index, classes in enumerate(((0, 1), (4, 5))):
        args = arguments(tmp_path / str(index), save_strategy="epoch")
        made = ContinualTrainer(model, args, train_dataset=pictures(classes), method=method, task=index)
        made.remove_callback(PrinterCallback)
        made.train()
    assert model.config.num_labels == len(model.classifier.weight) == 6
    again = vit()
    again.classifier, fresh = GrowingLinear(16), copy.deepcopy(METHODS["ER-0"])
    with pytest.raises(BadCheckpoint, match=r"does not describe this method|keeps"):
        ContinualTrainer(again, args, train_dataset=pictures((4, 5)), method=fresh, task=1).train(True)
    with pytest.raises(BadCheckpoint, match="task 1 was learned, and this is task 0"):
        ContinualTrainer(again, args, train_dataset=pictures((4, 5)), method=fresh, task=0).train(True)
    fresh = compose(MIST(width=8, batch=16, free="bias|norm|^classifier"), ER(rows=4))
    ContinualTrainer(again, args, train_dataset=pictures((4, 5)), method=fresh, task=1).train(
        str(tmp_path / "1/checkpoint-2")
    )
    assert equal(again.state_dict(), model.state_dict()), "transformers writes some weights under other names"
    made.save_model(tmp_path / "kept")
    loaded = ViTForImageClassification.from_pretrained(tmp_path / "kept")
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)


def test_a_method_that_answers_instead_of_the_model_is_asked(tmp_path):
    (first, _), method, model = loops.tasks(Rule()), loops.method_of("ICaRL-0"), Net()
    made = trainer(first, model, method, tmp_path)
    made.train()
    told = made.predict(items(first))
    batch = first.train.take(torch.arange(first.rows))
    model.eval()
    assert torch.allclose(torch.as_tensor(told.predictions), method.predict(model, batch))
