"""What the processes of a pair do: each job is called by every rank with the same arguments and returns plain values.

The reference of a job is one process: the same run inside `ranks.apart()`, its steps cut into as many pieces.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from compositions import COMPOSITIONS, bits, finished, learner, predictions
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from worlds import Net, noise, rows, stream

from nacre.core import drive as driving
from nacre.core import ranks, reduce
from nacre.core.drive import Drive
from nacre.core.errors import LostRank, NacreError, NonFinite, RanksDiffer, TooFewRows
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import Rule
from nacre.core.run import Run
from nacre.core.state import state
from nacre.core.stream import Experience, Task
from nacre.experiment import Experiment
from nacre.learner import Learner, Listener, Stage
from nacre.memory import ClassBalanced, Reservoir
from nacre.methods import ER, EWC, MIST
from tests.end_to_end import small

SGD = MadeOptimizer("sgd", 0.02, [{"match": "head", "lr": 0.04}], {"momentum": 0.9, "weight_decay": 0.05})
"""Adam divides a gradient that is rounding noise by its own size; what shall agree within rounding is trained by SGD."""


def far(a: Any, b: Any) -> float:
    """The largest difference of numbers in two trees, relative to the largest beside them; inf where they differ otherwise."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.shape == b.shape:
        if not a.numel():
            return 0.0
        if not a.is_floating_point():
            return 0.0 if torch.equal(a, b) else float("inf")
        a, b = a.double(), b.double()
        kept = b.isfinite()
        if not torch.equal(kept, a.isfinite()):
            return float("inf")
        return ((a - b)[kept].abs().max() / b[kept].abs().max().clamp_min(1.0)).item() if kept.any() else 0.0
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return float("inf")
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((far(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return max((far(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) / max(abs(b), 1.0)
    return 0.0 if a == b else float("inf")


def learned(who: Learner) -> dict[str, Any]:
    """What a learner knows, without its weights: importances, masks, memories, statistics; and what it answers.

    Without digests of weights, which are equal within rounding only; a low-rank factor stands for its square.
    """
    stages = copy.deepcopy(who.state_dict()["stages"])
    for stage in stages:
        for part in stage["method"].get("members", [stage["method"]]):
            held = part.get("statistics", {})
            held.pop("taken", None)
            if held.get("factor") is not None:
                held["factor"] = held["factor"].mT @ held["factor"]
    return {"stages": stages, "scores": predictions(who)}


def with_sgd(who: Learner, pieces: int = 1) -> Learner:
    """The learner with SGD for its optimizers, its steps cut into so many times more pieces."""
    for stage in who.stages:
        stage.optimizer, stage.accumulate = stage.optimizer and SGD, stage.accumulate * pieces
    return who


class Equal(Listener):
    """Whether the ranks hold the same bits after each stage: weights, buffers, optimizer, all that methods know."""

    def __init__(self) -> None:
        self.differing: list[str] = []

    def stage_ends(self, learner: Learner) -> None:
        self.differing += ranks.differing({**learner.state_dict(), "scores": predictions(learner)})


def compositions(names: list[str]) -> dict[str, Any]:
    """Each composition on two ranks: where the replicas differ after each task, and how far from one process it ends."""
    ends: list[tuple[str, Learner, list[str]]] = []
    for name in names:
        equal, who = Equal(), with_sgd(learner(name))
        list(who.learn(stream(), equal))
        ends.append((name, who, equal.differing))
    mine = ends[ranks.rank() :: ranks.world()]  # each rank compares some with one process
    found = {}
    with ranks.apart():
        for name, who, differing in mine:
            alone = finished(with_sgd(learner(name), ranks_in_all()))
            weights = far(who.model.state_dict(), alone.model.state_dict())
            found[name] = {"differing": differing, "weights": weights, "learned": far(learned(who), learned(alone))}
    return {name: told for of_rank in ranks.gathered(found) for name, told in of_rank.items()}


def ranks_in_all() -> int:
    """How many ranks there are, also inside `apart()`."""
    return torch.distributed.get_world_size()


# ------------------------------------------------------------------------------------------------------ uneven steps


def plain_net() -> Net:
    return Net(norm=False)


UNEVEN: dict[str, Callable[[], Rule]] = {
    "fine-tuning": Method,
    "EWC": lambda: EWC(rows=7),
    "ER": lambda: ER(rows=5, memory=Reservoir(capacity=20)),
    "ER-balanced": lambda: ER(rows=1, memory=ClassBalanced(capacity=20)),
    "MIST": lambda: MIST(width=8, batch=9),
    "composed": lambda: compose(MIST(objective_of="stage", batch=9), EWC(rows=7), ER(rows=3)),
}


def uneven_run(make: Callable[[], Rule], accumulate: int) -> Learner:
    """Three tasks of 40 rows in steps of 13: the last step has one row, so that the second rank has none."""
    stage = Stage(make(), SGD, batch_size=13, epochs=2, accumulate=accumulate, augment=noise, clip=1.0)
    return finished(Learner(plain_net(), (stage,), seed=3))


def uneven() -> dict[str, float]:
    """How far two ranks end from one process where the ranks' parts of a step are unequal, and one of them empty."""
    found = {}
    for name, make in UNEVEN.items():
        for accumulate in (1, 2) if name in ("fine-tuning", "composed") else (1,):
            who = uneven_run(make, accumulate)
            with ranks.apart():
                alone = uneven_run(make, accumulate * ranks_in_all())
            weights = far(who.model.state_dict(), alone.model.state_dict())
            found[f"{name}, {accumulate}"] = max(weights, far(learned(who), learned(alone)))
    return found


def odd_streams() -> dict[str, str]:
    """Tasks without rows, of one row, of one class: nothing hangs, and where one rank refuses all do."""
    plain, found = stream(), {}
    empty = Experience(Task(0, rows((0,), 0, "none")))
    single = Experience(Task(1, rows((0,), 1, "one"), (0,)))
    back = Experience(replace(plain[0].task, index=2), plain[0].tests)
    for name in COMPOSITIONS:
        if name != "Joint":
            who = Learner(plain_net(), COMPOSITIONS[name](), seed=3)
            list(who.learn([empty, single, back, Experience(Task(3))]))
            found[name] = ", ".join(ranks.differing(who.state_dict()))
    try:
        list(Learner(Net(), (Stage(Method(), SGD, batch_size=13),)).learn(stream()))
    except TooFewRows:
        found["a row that BatchNorm cannot normalise, on the first rank only"] = ""
    return found


# ------------------------------------------------------------------------------------------------------- own loops


def own_loop(name: str, wrap: Callable[[nn.Module], nn.Module]) -> Net:
    """The training of a composition's only stage in a loop of one's own."""
    stage, net = with_sgd(learner(name)).stages[0], Net()
    for met in stream():
        total = stage.epochs * -(-len(met.task.train) // stage.batch_size)
        with Drive(stage.method, wrap(net), stage.optimizer, met.task, augment=noise, seed=3) as drive:
            held = [p for g in drive.optimizer.param_groups for p in g["params"]]
            peaks = [g["lr"] for g in drive.optimizer.param_groups]
            for epoch in range(stage.epochs):
                for pieces in drive.steps(epoch, stage.batch_size, accumulate=stage.accumulate):
                    for group, peak in zip(drive.optimizer.param_groups, peaks, strict=True):
                        group["lr"] = peak * stage.schedule.over(total)(drive.site.step)
                    drive.optimizer.zero_grad()
                    for piece in pieces:
                        drive.loss(piece).backward()
                    nn.utils.clip_grad_norm_(held, stage.clip)
                    drive.optimizer.step()
                    drive.stepped()
    return net


def own_loops() -> dict[str, bool]:
    """Loops of one's own end with the learner's bits, with DDP around the model or without; the head grows in either."""
    found = {}
    wraps = {"ER": lambda net: net, "MIST": DistributedDataParallel, "MIST-EWC-ER": DistributedDataParallel}
    for name, wrap in wraps.items():
        whole, mine = finished(with_sgd(learner(name))).model.state_dict(), own_loop(name, wrap).state_dict()
        found[name] = all(bits(mine[n]) == bits(whole[n]) for n in whole)
    return found


def foreign_rows() -> dict[str, float]:
    """Rows that another loader cut over the ranks, pieces that say their share, and a closure: all give the step's gradient."""
    data, found = stream()[0].task.train.take(torch.arange(16)), {}
    mine = data.pick(slice(8 * ranks.rank(), 8 * ranks.rank() + 8))

    def ended(use: Callable[[Drive], None], optimizer: Any = None) -> dict[str, torch.Tensor]:
        net = plain_net()
        net.body[3].p = 0.0
        with Drive(Method(), net, optimizer or MadeOptimizer("sgd", 0.5), stream()[0].task) as drive:
            use(drive)
        return net.state_dict()

    def whole(drive: Drive) -> None:
        drive.loss(data).backward()
        drive.optimizer.step()

    def halves(drive: Drive) -> None:
        for low, high in ((0, 2), (2, 8)):
            drive.loss(mine.pick(slice(low, high)), (high - low) / 8).backward()
        drive.optimizer.step()

    def unsaid(drive: Drive) -> None:  # as under accelerate: the loop divides by itself and says no shares
        for low in (0, 4):
            (drive.loss(mine.pick(slice(low, low + 4))) / 2).backward()
        drive.optimizer.step()

    def closed(use: Any) -> Callable[[Drive], None]:
        def run(drive: Drive) -> None:
            def closure() -> torch.Tensor:
                drive.optimizer.zero_grad()
                loss = drive.loss(use)
                loss.backward()
                return drive.lost  # that of all ranks: what is decided by it is decided alike

            drive.optimizer.step(closure)

        return run

    def lbfgs(params: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(list(params.values()), lr=0.1, max_iter=3)

    ways = {"pieces with shares": halves, "pieces without": unsaid, "whole": lambda d: closed(mine)(d)}
    for word, use in ways.items():
        ends = ended(use)
        with ranks.apart():
            found[word] = far(ends, ended(whole))
    ends = ended(closed(mine), lbfgs)
    with ranks.apart():
        found["LBFGS"] = far(ends, ended(closed(data), lbfgs))
    return found


def overflow() -> dict[str, Any]:
    """A gradient that overflows on one rank only: no rank takes the step, none waits for ever, none admits the rows."""
    net, method = plain_net(), ER(rows=4, memory=Reservoir(capacity=20))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    effect = []
    with Drive(method, net, MadeOptimizer("sgd", 0.1), stream()[0].task, seed=3) as drive:
        for k, batch in enumerate(drive.batches(0, 8)):
            drive.optimizer.zero_grad()
            loss = drive.loss(batch)
            if k == 1 and ranks.rank() == 1:
                loss = loss * float("inf")
            before = net.body[0].weight.detach().clone()
            scaler.scale(loss).backward()
            scaler.unscale_(drive.optimizer)
            scaler.step(drive.optimizer)
            scaler.update()
            effect.append(not torch.equal(before, net.body[0].weight))
            drive.stepped()
    return {"effect": effect, "seen": method.memory.seen, "differing": ranks.differing(net.state_dict())}


# ---------------------------------------------------------------------------------------------------------- resuming


class SavesAt(Listener):
    def __init__(self, folder: Path, at: int):
        self.folder, self.at, self.count = folder, at, 0

    def stepped(self, learner: Learner, loss: torch.Tensor) -> None:
        self.count += 1
        if self.count == self.at:
            learner.save(self.folder)
            ranks.wait()


def resumes(folder: str) -> dict[str, Any]:
    """A run that is saved in the middle of its second task and goes on: on as many ranks, and in one process."""
    found: dict[str, Any] = {}
    for name in ("MIST-EWC-ER", "ER-balanced", "MIST-SimpleCIL"):
        place = Path(folder) / name
        whole = with_sgd(learner(name))
        list(whole.learn(stream(), SavesAt(place, 13)))
        again = with_sgd(learner(name))
        again.resume(place)
        finished(again)
        found[name] = all(
            bits(t) == bits(again.model.state_dict()[n]) for n, t in whole.model.state_dict().items()
        ) and not far(learned(again), learned(whole))
        with ranks.apart():
            alone = with_sgd(learner(name), ranks_in_all())
            alone.resume(place)
            finished(alone)
        weights = far(alone.model.state_dict(), whole.model.state_dict())
        found[f"{name}, in one process"] = max(weights, far(learned(alone), learned(whole)))
    return found


class Poisoned:
    """Rows of which one, that one rank meets, is NaN."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: torch.Tensor) -> Any:
        batch = self.rows.take(index)
        return replace(batch, x=torch.where((batch.ids == 39)[:, None], torch.nan, batch.x))


def nonfinite() -> dict[str, Any]:
    """A row that is NaN on one rank: all ranks skip the step, go back or stop, and end where one process does."""
    found: dict[str, Any] = {}

    def run(mode: Any, pieces: int) -> Learner:
        who = with_sgd(learner("ER"), pieces)
        who.on_nonfinite, who.mark_every = mode, 4
        first, second, *_ = stream()
        second = replace(second, task=replace(second.task, train=Poisoned(second.task.train)))
        list(who.learn([first, second]))
        return who

    for mode in ("skip", "rollback"):
        who = run(mode, 1)
        with ranks.apart():
            alone = run(mode, ranks_in_all())
        found[mode] = {
            "differing": ranks.differing(who.state_dict()),
            "far": max(far(who.model.state_dict(), alone.model.state_dict()), far(learned(who), learned(alone))),
            "told": [event["tensor"] for event in who.nonfinite],
            "same": who.nonfinite == alone.nonfinite,
        }
    found["stop"] = _said(lambda: float(bool(run("stop", 1))), NonFinite)
    return found


class Interrupts(Listener):
    """Stops every rank at one step."""

    def stepped(self, learner: Learner, loss: torch.Tensor) -> None:
        if learner.experience == 1 and learner.step == 3:
            raise KeyboardInterrupt


def experiments(folder: str) -> dict[str, Any]:
    """An experiment that is interrupted and resumed on two ranks; its record is that of one that never stopped."""
    changes = ("run.save_every=2", "stage.0.batch_size=60", "watch.every=4")
    config = small.config(*changes, stage=[{"methods": [{"name": "ER"}]}])
    with suppress(KeyboardInterrupt):
        Experiment(config).run(Path(folder) / "stopped", Interrupts())
    ranks.wait()
    again = Experiment(config).resume(Path(folder) / "stopped")
    whole = Experiment(config).run()
    ranks.wait()
    records = {str(run.repeatable()) for run in (again, whole, Run.load(Path(folder) / "stopped"))}
    return {"equal": len(records) == 1, "status": again.status}


# ----------------------------------------------------------------------------------------------------------- mutants


@dataclass
class OwnRows(Method):
    """A mutant: counts in `shape_batch`, where each rank sees its own rows only."""

    met: int = state(int)

    def shape_batch(self, batch):
        self.met += int(batch.y.sum())
        return batch


def _twice(self: reduce.Reducer) -> None:
    _reduce(self)
    torch._foreach_div_([p.grad for p in self.params if p.grad is not None], ranks.world())


_reduce = reduce.Reducer.reduce


def _alike(self: Drive, batch: Any, share: float) -> Any:
    batch, place = _placed(self, batch, share)
    return (replace(batch, share=1 / ranks.world()) if len(batch) else batch), place


_placed = Drive._placed


@contextmanager
def mutated(name: str) -> Iterator[None]:
    broken = {
        "the gradient is divided by the ranks twice": lambda: mock.patch.object(reduce.Reducer, "reduce", _twice),
        "unequal parts count alike": lambda: mock.patch.object(Drive, "_placed", _alike),
        "each memory holds its own rank's rows": lambda: mock.patch.object(
            driving, "exchanged", lambda seen, device: seen
        ),
        "statistics of one shard": lambda: mock.patch.object(
            ranks, "total", lambda ts: _total(ts) if len(ts) != STATISTICS else None
        ),
        "running statistics of one's own": lambda: mock.patch.object(
            reduce.Reducer, "follow", lambda self, model: None
        ),
    }[name]
    with broken():
        yield


_total = ranks.total
STATISTICS = 6  # tensors that EWC takes the Fisher information of: four of the body, two of the head


def mutants() -> dict[str, str]:
    """What each classic bug does: how far the run ends from one process, or how the driver refuses it."""
    found = {}
    with ranks.apart():
        alone = {k: uneven_run(UNEVEN[k], ranks_in_all()).model.state_dict() for k in ("fine-tuning", "EWC", "ER")}
    cases = {
        "the gradient is divided by the ranks twice": "fine-tuning",
        "unequal parts count alike": "fine-tuning",
        "each memory holds its own rank's rows": "ER",
        "statistics of one shard": "EWC",
    }
    for name, method in cases.items():
        with mutated(name):
            found[name] = _said(lambda m=method: far(uneven_run(UNEVEN[m], 1).model.state_dict(), alone[m]))
    found["a method that counts its own rank's rows"] = _said(lambda: float(bool(uneven_run(OwnRows, 1))))
    with mutated("running statistics of one's own"):
        broken = finished(with_sgd(learner("fine-tuning"))).model.state_dict()
    with ranks.apart():
        sound = finished(with_sgd(learner("fine-tuning"), ranks_in_all())).model.state_dict()
    found["running statistics of one's own"] = f"{far(broken, sound):.1e}"
    return found


def _said(run: Callable[[], float], kind: type[NacreError] = RanksDiffer) -> str:
    try:
        return f"{run():.1e}"
    except kind as error:
        return str(error)


# ---------------------------------------------------------------------------------------------------- what ranks say


def collectives() -> dict[str, Any]:
    """The face over torch.distributed, on small values."""
    me, world = ranks.rank(), ranks.world()
    sums = [torch.full((3,), float(me + 1)), torch.tensor(me), torch.full((2, 2), me + 1.0).T, torch.ones(5 << 20)]
    ranks.total(sums)
    tree = {"rows": torch.arange(me), "half": torch.ones(me, 2).bfloat16(), "name": f"rank {me}", "none": None}
    trees = ranks.gathered([tree] * me)
    theirs = torch.full((3,), me, dtype=torch.int16)
    ranks.broadcast([theirs])
    with ranks.apart():
        apart = [ranks.world(), ranks.rank(), ranks.gathered(me), ranks.share_of(torch.arange(4)).tolist()]
    return {
        "world": [me, world, ranks.first()],
        "sums": [sums[0].tolist(), sums[1].item(), sums[2].flatten().tolist(), sums[3].max().item()],
        "gathered": [len(t) for t in trees] == list(range(world))
        and trees[1][0]["name"] == "rank 1"
        and trees[1][0]["half"].dtype == torch.bfloat16
        and trees[1][0]["rows"].tolist() == [0],
        "broadcast": theirs.tolist(),
        "told": ranks.told(f"said by {me}"),
        "share": ranks.share_of(torch.arange(5)).tolist(),
        "in turn": ranks.in_turn(ranks.share_of(torch.arange(5)).tolist()),
        "differing": ranks.differing({"a": torch.ones(3), "b": torch.tensor([me]), "c": me, "d": "same"}),
        "apart": apart == [1, 0, [me], [0, 1, 2, 3]],
    }


def fails_on_one(said: str) -> None:
    """The second rank fails; the first does not wait for ever, and writes down what it hears."""
    if ranks.rank() == 1:
        raise NacreError("this rank fails")
    try:
        ranks.wait()
    except LostRank as error:
        Path(said).write_text(str(error))
        raise
