"""A trained model as a folder that predicts: backbone, head and closed-form read-out, without hub, data or optimizer."""

from __future__ import annotations

import hashlib
import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..adapters import describe, rebuild, unwrapped
from ..backbones import Body, Classifier, from_spec
from ..catalogue import make
from ..core.errors import BadCheckpoint, BadSetting
from ..core.files import first_line
from ..core.lengths import put_back, readings
from ..core.method import Method, leaves, parts_of
from ..core.model import bare, device_of, evaluating, grow
from ..core.rows import Batch
from ..core.state import called, moved, settings
from ..core.stream import experiences
from ..heads import GrowingLinear, MultiHead
from ..learner import Learner
from ..streams import FromData
from .rows import Trained, TrainedOnTexts
from .trial import device_called

logger = logging.getLogger(__name__)
FORMAT = "nacre-model-1"
SIZE = 500  # rows predicted at once


def export(folder: str | Path, learner: Learner, body: Body, split: FromData) -> bool:
    """Write what predicting needs: structure, weights, the names of the classes, and what the answering method keeps.

    Args:
        folder: Where to; replaced as a whole.
        learner: What has been learned.
        body: The backbone that the model was made of.
        split: The stream, which knows the names of the classes.

    Returns:
        False where the backbone was given in Python and cannot be made again from plain values; nothing is written then.
    """
    if body.spec.get("kind") == "module":
        logger.warning(
            "the backbone was given in Python, so %s is not written: save the model's weights yourself", folder
        )
        return False
    model, method = bare(learner.model), _answering(learner)
    head = model.get_submodule("head")
    assert isinstance(head, GrowingLinear)
    told = isinstance(head, MultiHead)
    tree = {
        "format": FORMAT,
        "body": body.spec,
        "row": _row(split),
        "head": {"told": told, "width": head.in_features, "seed": head.seed},
        "tasks": len(split) if told else None,
        "classes": list(split.class_names[: learner.classes]),
        "precision": learner.precision,
        "method": None if method is None else {"name": called(type(method)), **settings(method)},
        "state": None if method is None else method.state_dict(),
        "parts": None if method is None else parts_of(method).state_dict(),
        "adapters": describe(model),
        "model": unwrapped(model.state_dict()),
    }
    checkpoint.save(folder, tree)
    return True


class Predictor:
    """A model that answers with the names of classes.

    Attributes:
        model: Pixels, backbone and head.
        method: What answers for it.
        classes: Name of each column of the scores.
        precision: Of forward passes.
        trained: What rows looked like in training.
        tasks: How many tasks can be told; None where the model was trained without.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        classes: list[str],
        precision: str,
        trained: Trained | TrainedOnTexts,
        tasks: int | None = None,
    ):
        self.model, self.method, self.classes, self.precision = model, method, classes, precision
        self.trained, self.tasks = trained, tasks

    @property
    def reads_texts(self) -> bool:
        """Whether its rows are texts."""
        return isinstance(self.trained, TrainedOnTexts)

    def scores(self, x: Any, task: int | None = None) -> Tensor:
        """Scores of rows, (rows, classes), on the CPU.

        Args:
            x: Pictures (rows, channels, height, width) or (rows, height, width), uint8 in 0..255 or float in 0..1, or vectors
                (rows, width), or a single one; a tensor or an array. Pictures of another size than in training are refused
                where the backbone has no size of its own. A list of texts, or one, where the model reads texts.
            task: The task they come from, from 0, where the model was trained with tasks told.

        Raises:
            BadData: the rows are not like those of training.
            BadSetting: there is no such task.
        """
        if task is not None and self.tasks is None:
            raise BadSetting("this model was trained without tasks told, all its classes compete: leave task out")
        if task is not None and self.tasks is not None and not 0 <= task < self.tasks:
            raise BadSetting(f"task is one of 0..{self.tasks - 1}, not {task!r}")
        rows = self.trained.rows(x)
        device, pieces = device_of(self.model), readings(rows, SIZE)
        cast = torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with evaluating(self.model), torch.no_grad(), cast:
            batches = (_told(rows.take(piece), task).to(device) for piece in pieces)
            found = [self.method.predict(self.model, batch).float().cpu() for batch in batches]
        return put_back(found, pieces) if found else torch.empty(0, len(self.classes))

    def predict(self, x: Any, task: int | None = None) -> list[str]:
        """The name of the class that each row most likely is."""
        return [self.classes[c] for c in self.scores(x, task).argmax(1).tolist()]

    def top(self, x: Any, count: int = 5, task: int | None = None) -> list[list[tuple[str, float]]]:
        """The most likely classes of each row with their scores, best first; what a told task rules out is left out."""
        best = self.scores(x, task).topk(min(count, len(self.classes)), dim=1)
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [[(self.classes[c], v) for v, c in zip(*row, strict=True) if v > MultiHead.OTHER] for row in rows]


def load(folder: str | Path, device: str = "cpu") -> Predictor:
    """A model that predicts, from an export or from a run's folder (of several seeds, the first).

    Args:
        folder: What `nacre run --out` made, or the `export` folder in it.
        device: Where it shall run.

    Raises:
        BadCheckpoint: there is no exported model, or it cannot be read.
        BadSetting: this machine does not offer that device.
    """
    where = device_called(str(device))
    place, saved = exported_in(folder)
    with checkpoint.describing(f"a model (in {place})"):
        return _predictor(saved, place, where)


def exported_in(folder: str | Path, seed: int | None = None) -> tuple[Path, dict[str, Any]]:
    """What `export` wrote, and where it lies.

    Args:
        folder: See `load`.
        seed: Of several seeds, which; None = the first.

    Raises:
        BadCheckpoint: there is no exported model, or none of that seed.
    """
    place = Path(folder)
    if (place / "export").is_dir():
        place = place / "export"
    seeds = sorted(place.glob("seed-*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else 0)
    if seed is not None and seeds:
        seeds = [place / f"seed-{seed}"]
    saved = checkpoint.load(seeds[0] if seeds else place)
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise BadCheckpoint(f"{place} holds no exported model: give a run's folder or the export folder in it")
    lent = saved.pop("lent", None)
    if lent is not None:
        saved["model"] |= borrowed(place.parent, lent)
    return place, saved


def _predictor(saved: dict[str, Any], place: Path, device: torch.device) -> Predictor:
    body, head = from_spec(saved["body"], most=sum(t.numel() for t in saved["model"].values())), saved["head"]
    model = Classifier(body, (MultiHead if head["told"] else GrowingLinear)(head["width"], seed=head["seed"]))
    grow(model, len(saved["classes"]))
    rebuild(model, saved.get("adapters"))
    method = Method() if saved["method"] is None else make("method", saved["method"])
    if saved["method"] is not None:
        method.load_state_dict(saved["state"])
        method.prepare(model)
    try:
        model.load_state_dict(saved["model"])
        if saved["method"] is not None:
            parts_of(method).load_state_dict(saved["parts"])
    except RuntimeError as error:
        raise BadCheckpoint(
            f"the weights in {place} do not fit the model described there ({first_line(error)}): export it again"
        ) from error
    model.to(device).requires_grad_(False)
    if device.type != "cpu" and saved["method"] is not None:
        method.load_state_dict(moved(saved["state"], device))
    trained = _trained(saved["row"], body)
    return Predictor(model.eval(), method, saved["classes"], saved["precision"], trained, saved["tasks"])


def borrowed(folder: Path, lent: dict[str, Any]) -> dict[str, Tensor]:
    """Weights that lie beside an export in the hub's own form, under the names that the model has for them.

    Args:
        folder: Where they lie.
        lent: The `file`, its `sha256`, and `names`: name in the model -> name in the file.

    Raises:
        BadCheckpoint: the file is not there, or another one.
    """
    from safetensors.torch import load_file

    path = folder / lent["file"]
    if not path.is_file() or digest_of(path) != lent["sha256"]:
        raise BadCheckpoint(
            f"{path} is not the file that this model was exported with: export it again with `nacre export`, or fetch it again"
        )
    found = load_file(path)
    return {name: found[there] for name, there in lent["names"].items()}


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def _answering(learner: Learner) -> Method | None:
    """The one method that answers, out of its composition; None where the head does."""
    for part in leaves(learner.answering()):
        if isinstance(part, Method) and part.overrides("predict"):
            return part
    return None


def _row(split: FromData) -> dict[str, Any]:
    """What a training row looks like."""
    rows = next((met.task.train for met in experiences(split) if met.task.rows), None)  # a first task may be empty
    x = None if rows is None else rows.take(torch.tensor([0])).x
    shape = list(x.shape[1:]) if isinstance(x, Tensor) else []
    return {"shape": shape, "raw": isinstance(x, Tensor) and x.dtype == torch.uint8}


def _trained(row: dict[str, Any], body: Body) -> Trained | TrainedOnTexts:
    if body.tokenizer is not None:
        return TrainedOnTexts(body.tokenizer)
    assert body.pixels is not None
    return Trained(tuple(row["shape"]), row["raw"], body.pixels)


def _told(batch: Batch, task: int | None) -> Batch:
    return batch if task is None else replace(batch, task=torch.full((len(batch),), task))
