"""Lightning with each method around its steps, beside the plain loop."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from worlds import Net

pytest.importorskip("lightning", reason="pip install 'nacre[lightning]'")
from compositions import equal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that it loads
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

from nacre.core.errors import BadCheckpoint, BadStep, BadUse
from nacre.core.kept import Kept
from nacre.core.rule import Rule
from nacre.core.stream import Task
from nacre.integrations import stage
from nacre.integrations.lightning import ContinualModule
from nacre.methods import ER
from tests.integrations import loops
from tests.integrations.loops import CLIP, EPOCHS, METHODS, SEED, SIZE, far, learned, plain

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # one is gone on with there
    pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers"),
]
SAVED = 4  # steps before the checkpoint, in the middle of the second epoch


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector._SignalConnector.register_signal_handlers",
                        lambda self: None)  # fmt: skip
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Falling(ContinualModule):
    """With the rate of the plain loop, which falls to 0."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        total = EPOCHS * -(-len(self.drive.order(0)) // SIZE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer(folder: Path | None = None, accumulate: int = 1, **told) -> Trainer:
    saves = [ModelCheckpoint(folder, "{step}", every_n_train_steps=SAVED, save_top_k=-1)] if folder else []
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(
        max_epochs=EPOCHS, accumulate_grad_batches=accumulate, gradient_clip_val=CLIP, callbacks=saves,
        enable_checkpointing=bool(saves), **{**quiet, **told},
    )  # fmt: skip


def module(task: Task, model: nn.Module, method: Rule, accumulate: int = 1) -> ContinualModule:
    made = Falling(model, method, loops.adamw, batch_size=SIZE // accumulate, augment=loops.noise, seed=SEED)
    made.task = task
    return made


def theirs(folder: Path | None = None, accumulate: int = 1, **told):
    def learn(task: Task, model: nn.Module, method: Rule) -> None:
        last = bool(task.index or task.owners)
        trainer(folder if last else None, accumulate, **told).fit(module(task, model, method, accumulate))

    return learn


def resumed(name: str, before: Rule, folder: Path, accumulate: int = 1) -> tuple[Net, Rule]:
    """The last task, gone on with from its checkpoint, with a model and a method that know nothing."""
    model, method = Net(), loops.method_of(name)
    made = module(loops.tasks(before)[-1], model, method, accumulate)
    trainer(folder, accumulate).fit(made, ckpt_path=str(folder / f"step={SAVED}.ckpt"))
    return model, method


@pytest.mark.parametrize("name", METHODS)
def test_lightning_ends_where_the_plain_loop_ends_and_resumes_to_the_bit(name, tmp_path):
    accumulate = 2
    mine, _, moved = learned(name, plain(accumulate))
    model, method, leaked = learned(name, theirs(tmp_path, accumulate))
    assert far(mine, model) <= 1e-6, f"{name}: the weights end {far(mine, model):.1e} apart"
    assert moved == leaked == []

    again, fresh = resumed(name, method, tmp_path, accumulate)
    assert equal(again.state_dict(), model.state_dict()), (
        f"{name}: resumed, the weights end {far(again, model):.1e} apart"
    )
    assert equal(fresh.state_dict(), method.state_dict()), f"{name}: resumed, the method knows something else"


def test_a_state_that_is_not_taken_over_and_a_rest_that_leaks_are_seen(tmp_path, monkeypatch):
    name = "MIST-EWC-ER"
    model, method, moved = learned(name, theirs(tmp_path))
    assert not moved and equal(resumed(name, method, tmp_path)[0].state_dict(), model.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(stage, "take_over", lambda tree, method, model, task: loops.grown(model, tree))
        assert far(resumed(name, method, tmp_path)[0], model) > 1e-4
    with monkeypatch.context() as patch:
        patch.setattr(Kept, "put_back", lambda self: None)
        with pytest.raises(BadStep, match="moved that were asked to rest"):
            learned(name, theirs())


def test_the_division_by_lightning_is_made_good(monkeypatch):
    mine, _, _ = learned("ER-0", plain(4), rows=7)  # 14 rows in steps of 8: the last one has pieces of 2, 2 and 2
    assert far(mine, learned("ER-0", theirs(accumulate=4), rows=7)[0]) <= 1e-6
    monkeypatch.setattr(
        ContinualModule, "training_step", lambda self, batch, index: self.drive.loss(batch)
    )  # divides twice
    assert far(mine, learned("ER-0", theirs(accumulate=4), rows=7)[0]) > 1e-4


def test_bf16_is_that_of_the_plain_loop():
    mine, _, _ = learned("MIST-EWC-ER", plain(precision="bf16"))
    model, _, moved = learned("MIST-EWC-ER", theirs(precision="bf16-mixed"))
    assert far(mine, model) <= 1e-6 and not moved


def loader(batches: list) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(batches, batch_size=None)


class Validated(Falling):
    def val_dataloader(self):
        return loader([self.task.train.take(torch.arange(k, k + 8)) for k in (0, 8)])

    def validation_step(self, batch, index):
        assert not self.model.training
        self.scores(batch)


def test_validating_on_the_way_disturbs_nothing():
    def watched(task: Task, model: nn.Module, method: Rule) -> None:
        made = Validated(model, method, loops.adamw, batch_size=SIZE, augment=loops.noise, seed=SEED)
        made.task = task
        trainer(val_check_interval=2).fit(made)

    assert equal(learned("ER-0", watched)[0].state_dict(), learned("ER-0", theirs())[0].state_dict())


def test_an_evaluation_with_a_checkpoint_rolls_nothing_back_and_the_next_stage_begins(tmp_path, monkeypatch):
    method, begun = loops.method_of("EWC-0"), []
    first, second = loops.tasks(method)[:2]
    watched = Validated(Net(), method, loops.adamw, batch_size=SIZE, seed=SEED)
    watched.task = first
    fitting = trainer(tmp_path)
    fitting.fit(watched)
    known = {name: t.clone() for name, t in method.importance.items()}
    fitting.validate(watched, ckpt_path=str(tmp_path / f"step={SAVED}.ckpt"))
    assert known and equal(method.importance, known)
    monkeypatch.setattr(type(method), "begin_stage", lambda self, model, task: begun.append(task.index), raising=False)
    watched.task = second
    trainer().fit(watched)
    assert begun == [1]


def pairs(task: Task) -> torch.utils.data.DataLoader:
    """Another loader's batches."""
    batches = [task.train.take(torch.arange(low, low + SIZE)) for low in range(0, task.rows, SIZE)]
    return loader([(batch.x, batch.y) for batch in batches])


def test_rows_of_another_loader_are_learned_and_a_method_that_orders_them_itself_refuses():
    method = ER(rows=4)
    first = loops.tasks(method)[0]
    made = module(first, Net(), method)
    trainer().fit(made, pairs(first))
    assert method.memory.seen == first.rows * EPOCHS
    ordered = loops.method_of("GDumb-0")
    with pytest.raises(BadUse, match="chooses rows or their order"):
        trainer().fit(module(first, Net(), ordered), pairs(first))


def test_a_fit_that_fails_leaves_no_stage_behind_and_learns_nothing(monkeypatch):
    method, model = loops.method_of("EWC-0"), Net()
    first = loops.tasks(method)[0]
    made = module(first, model, method)
    with monkeypatch.context() as patch:
        patch.setattr(ContinualModule, "training_step", lambda self, batch, index: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer().fit(made)
    assert not method.importance and model.training
    trainer().fit(made)
    assert method.importance


def test_a_checkpoint_of_another_task_or_without_a_method_is_refused(tmp_path):
    _, method, _ = learned("ER-0", theirs(tmp_path))
    first, last = loops.tasks(method)
    here = str(tmp_path / f"step={SAVED}.ckpt")
    with pytest.raises(BadCheckpoint, match="task 1 was learned, and this is task 0"):
        trainer(tmp_path).fit(module(first, Net(), loops.method_of("ER-0")), ckpt_path=here)
    with pytest.raises(BadCheckpoint, match="no method's state"):
        stage.take_over(None, method, Net(), last)
