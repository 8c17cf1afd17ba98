"""What a record says of steps and tasks: losses and learning rates, scores of watch sets, how far what moved."""

from __future__ import annotations

from math import nan
from typing import Any

from ..metrics.motion import total
from .history import History

EVERY = 10  # steps between points of the loss curve
MOTION = ("entries", "moved", "distance", "relative", "size", "from_start", "effective_step")
TOTAL = ("entries", "moved", "relative", "from_start", "effective_step")
REST = ("entries", "asked", "moved")
DETAILED = 100  # tasks of which the motion of each tensor is held, at most


class Losses(History):
    """Loss and learning rate of each stage, every tenth step and at its first."""

    def __init__(self) -> None:
        super().__init__("loss", "lr", every=EVERY, first=True)

    def to_json(self) -> list[dict[str, Any]]:
        """A curve for each stage that is held."""
        points, found = dict(self.by_stage()), []
        for task, stage, steps in self.stages():
            rows = points.get((task, stage), [])
            step, loss, lr = ([row[k] for row in rows] for k in range(3))
            found.append(
                {"task": task, "stage": stage, "steps": steps, "step": [int(s) for s in step], "loss": loss, "lr": lr}
            )
        return found


class Watched(History):
    """Scores of the watch sets, which go by the number of their test set.

    Args:
        every: Steps between scorings; 0: none.
    """

    def __init__(self, every: int):
        super().__init__("test", "score", every=every)

    def to_json(self, names: list[str]) -> list[dict[str, Any]]:
        """Curves of the sets with these names, for each stage that is held."""
        points, found = dict(self.by_stage()), []
        for task, stage, _ in self.stages():
            scores: dict[str, list[float]] = {}
            steps: dict[int, None] = {}
            for step, test, value in points.get((task, stage), []):
                steps[int(step)] = None
                scores.setdefault(names[int(test)], []).append(value)
            found.append({"task": task, "stage": stage, "step": list(steps), "scores": scores})
        return found


class Moved:
    """How far what moved in each task: all tensors as one, and each by its name."""

    def __init__(self) -> None:
        self.whole, self.each = History(*TOTAL), History("tensor", *MOTION)
        self.names: dict[str, int] = {}

    def add(self, task: int, rows: dict[str, dict[str, Any]]) -> None:
        """Note the motion of a task's tensors; a task that was noted before is left alone."""
        if self.whole.stages()[-1:] == [(task, 0, 0)]:
            return
        for history in (self.whole, self.each):
            history.begin(task, 0, 0)
        self.whole.add(task, 0, 0, *(total(rows)[key] for key in TOTAL))
        self.each.limit = DETAILED * max(len(rows), 1)
        for name, row in rows.items():
            number = self.names.setdefault(name, len(self.names))
            self.each.add(task, 0, 0, number, *(row.get(key, nan) for key in MOTION))

    def to_json(self) -> dict[str, Any]:
        """By the name of the task's moment: `total`, and `tensors` where they are held."""
        names = list(self.names)
        tensors = {
            task: {names[int(row[1])]: _said(MOTION, row[2:]) for row in rows}
            for (task, _), rows in self.each.by_stage()
        }
        return {
            f"task{task}": {"total": _said(TOTAL, rows[-1][1:]), "tensors": tensors.get(task, {})}
            for (task, _), rows in self.whole.by_stage()
        }

    def state_dict(self) -> dict[str, Any]:
        """All that is held."""
        return {"whole": self.whole.state_dict(), "each": self.each.state_dict(), "names": list(self.names)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.whole.load_state_dict(saved["whole"])
        self.each.load_state_dict(saved["each"])
        self.names = {name: number for number, name in enumerate(saved["names"])}


class Rests(History):
    """For each stage how many entries were trained, were asked to rest throughout, and moved although they were."""

    def __init__(self) -> None:
        super().__init__(*REST)

    def note(self, task: int, stage: int, steps: int, counts: dict[str, int]) -> None:
        """Hold the counts of a stage that has ended after so many steps."""
        self.begin(task, stage, steps)
        self.add(task, stage, steps, *(counts[key] for key in REST))

    def to_json(self) -> list[dict[str, int]]:
        """The stages that are held, in order."""
        return [
            {"task": task, "stage": stage} | {key: int(v) for key, v in zip(REST, rows[-1][1:], strict=True)}
            for (task, stage), rows in self.by_stage()
        ]


def _said(keys: tuple[str, ...], values: tuple[float, ...]) -> dict[str, Any]:
    return {key: int(value) if key == "entries" else value for key, value in zip(keys, values, strict=True)}
