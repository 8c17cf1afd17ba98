"""What holds for every part that keeps rows of the stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.drive import Drive
from ..core.model import Outputs, evaluating, forward
from ..core.rows import Batch
from ..memory import Block
from .check import Case, Skipped, check
from .kinds import admits_rows, parts_inside
from .runs import SGD, copied, gap
from .worlds import SHORT, VECTORS, calm

MARK = 777.0


@check(admits_rows)
def admits_whole_rows_of_the_stream(case: Case) -> None:
    """What it keeps of a row is of that row, in whatever order the rows came, and replayed rows are not admitted again."""
    batch = _batch()
    kept = [_kept(case, batch.pick(order)) for order in (torch.arange(len(batch)), torch.arange(len(batch)).flip(0))]
    if not kept[0]:
        raise Skipped("it admitted nothing")
    figure = gap(kept[0], kept[1])
    case.holds(
        not figure, "rows that come in another order are kept with the same labels and answers", figure,
        "inputs, labels and logits taken from different rows of the batch",
    )  # fmt: skip
    source = torch.tensor([0, 0, 0, 1, 1, 0])
    marked = replace(batch, source=source, x=torch.where(source[:, None] == 1, MARK, batch.x))
    again = sum(int((row == MARK).any()) for row in _kept(case, marked))
    case.holds(
        not again, "replayed rows are not admitted again", f"{again} are", "batch.source ignored: see Batch.own()"
    )


def _batch() -> Batch:
    view: Any = VECTORS.stream(SHORT)[0].task.train
    return view.take(torch.tensor([0, 3, 6, 9, 1, 7]))


def _kept(case: Case, batch: Batch) -> list[Tensor]:
    """Every row that a fresh part keeps of a batch, all its fields in one vector, sorted."""
    part, task = case.fresh(), VECTORS.stream(SHORT)[0].task
    with Drive(part, calm(), SGD, task, seed=0) as drive:
        with evaluating(drive.model), torch.no_grad():
            out: Outputs = forward(drive.model, batch)
        drive.method.after_step(batch, out, drive.site)
    blocks = [p.kept for p in parts_inside(part) if isinstance(p, Block)]
    rows = [
        torch.cat([t[i].double().flatten() for _, t in sorted(kept.items())]) for kept in blocks for i in _filled(kept)
    ]
    return sorted(copied(rows), key=lambda row: row.nan_to_num(-1.0).tolist())


def _filled(kept: dict[str, Tensor]) -> list[int]:
    """The slots that hold a row: others have no inputs."""
    inputs = next(t for n, t in kept.items() if n.startswith("x"))
    return (~inputs.isnan().flatten(1).all(1)).nonzero().flatten().tolist()
