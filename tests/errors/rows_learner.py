"""What learners, drives, methods and rules are refused; over 300 lines because it is a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from worlds import Net, rows, stream

from nacre.core.dice import keep
from nacre.core.drive import Drive
from nacre.core.errors import (
    BadCheckpoint,
    BadData,
    BadModel,
    BadSetting,
    BadStep,
    BadUse,
    NonFinite,
    TooFewRows,
    UnknownName,
)
from nacre.core.method import Method, compose
from nacre.core.model import Outputs, row_loss
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.rule import Rule, attached
from nacre.core.state import Stateful, grown, setting, state
from nacre.core.stream import Joined, Task
from nacre.heads import ClassStatistics, discriminant
from nacre.importance import fisher
from nacre.learner import Learner, Stage
from nacre.memory import Herding
from nacre.methods import ER, ERACE, EWC, MIST, SLDA, ICaRL, Joint, RanPAC, SimpleCIL
from nacre.rules import Rest
from nacre.schedules import schedule
from tests.errors.row import Place, Row

SGD = MadeOptimizer("sgd", 0.1)


def learned(*methods: Method, model: nn.Module | None = None, made: Any = SGD, **settings: Any) -> Any:
    """Carry a small net through a small stream."""
    stages = tuple(Stage(m, made, **{"batch_size": 8, **settings}) for m in methods)
    return list(Learner(Net() if model is None else model, stages).learn(stream()))


def matrices(named: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer that is given matrices only."""
    return torch.optim.SGD([p for p in named.values() if p.ndim == 2], lr=0.1)


def read(method: Method, model: nn.Module) -> Any:
    """The same, without training."""
    return list(Learner(model, (Stage(method),)).learn(stream()))


def driven(
    method: Rule, task: Task, model: nn.Module | None = None, made: Any = SGD, batch: Batch | None = None
) -> Any:
    """Begin a task by hand, and take the loss of a batch."""
    with Drive(method, Net() if model is None else model, made, task) as drive:
        return drive.loss(next(drive.batches(0, 8)) if batch is None else batch)


def numbers() -> Task:
    """A task whose targets are numbers, two a row."""
    return Task(0, TensorRows(torch.zeros(8, 8), torch.zeros(8, 2)))


def stepped(rule: Rule, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """A step of somebody's own loop, shaped by a rule."""
    with attached(rule, optimizer, model):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()


def line(**settings: Any) -> tuple[torch.optim.Optimizer, nn.Module]:
    """A linear layer and its optimizer."""
    model = nn.Linear(3, 1)
    return torch.optim.SGD(model.parameters(), lr=0.1, **settings), model


def attached_twice(at: Place) -> None:
    optimizer, model = line()
    with attached(Rest("weight"), optimizer, model):
        stepped(Rest("bias"), optimizer, model)


def still_scaled(at: Place) -> None:
    optimizer, model = line(fused=True)
    optimizer.grad_scale = torch.tensor(4.0)  # pyright: ignore[reportAttributeAccessIssue]
    stepped(Rest("weight"), optimizer, model)


class Slow(torch.optim.SGD):
    """Keeps a copy of the weights under a name of its own."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            self.state[p].setdefault("slow", p.detach().clone()).lerp_(p.detach(), 0.5)


def slow(at: Place) -> None:
    model = nn.Linear(3, 2)
    stepped(Rest("weight"), Slow(model.parameters(), lr=0.01), model)


def grown_late(at: Place) -> None:
    net = Net()
    driven(Method(), stream()[0].task, net, torch.optim.SGD(net.parameters(), lr=0.1))


def parts_late(at: Place) -> None:
    net = Net()
    net.head.grow(2)
    driven(MIST(width=8), stream()[0].task, net, torch.optim.SGD(net.parameters(), lr=0.1))


class TwoFaced(torch.optim.SGD):
    """Answers with other weights than it trains."""

    def train(self) -> None: ...
    def eval(self) -> None: ...


def kept_by_two_faces(at: Place) -> None:
    learned(Method(), made=lambda params: TwoFaced(params.values(), lr=0.1), optimizer_state="kept")


class Cut(nn.Linear):
    """Answers without a way back to its weights."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).detach()


@dataclass
class Keeps(Stateful):
    """Keeps what cannot be saved."""

    what: Any = state(object)


@dataclass
class Chooses(Stateful):
    """Has settings of all kinds."""

    size: int = setting(1, "a size", low=1)
    strength: float = setting(1.0, "a strength")


@dataclass
class Fixed(Stateful):
    """Has a setting with a range and no type of its own."""

    width: Any = setting(1, "a width", low=1)


def saved(*methods: Method) -> dict[str, Any]:
    """What a learner of these methods keeps."""
    return Learner(Net(), tuple(Stage(m, SGD) for m in methods)).state_dict()


def resumed(kept: dict[str, Any], *methods: Method, model: nn.Module | None = None) -> None:
    Learner(Net() if model is None else model, tuple(Stage(m, SGD) for m in methods)).load_state_dict(kept)


def wider(at: Place) -> None:
    learner = Learner(Net(), (Stage(Method(), SGD, batch_size=8),))
    kept = learner.state_dict()
    next(learner.learn(stream()))
    learner.load_state_dict(kept)


def singular(at: Place) -> None:
    learner = Learner(Net(), (Stage(RanPAC(width=400, ridge=0.0, precision="float32")),))
    list(learner.learn(stream()))
    learner.predict(Batch(torch.zeros(1, 8), torch.zeros(1, dtype=torch.long)))


def scored(at: Place) -> None:
    numbers = TensorRows(torch.zeros(2, 3), torch.zeros(2))
    answer = Outputs(torch.zeros(1, 1), torch.zeros(1, 1))
    fisher(lambda batch: torch.zeros(()), lambda batch: answer, {}, numbers, torch.tensor([0]))


FIRST = stream()[0].task
ODD = Task(0, rows((0, 3), 8, "odd"), (0, 1))
ONE = Batch(torch.zeros(1, 8), torch.tensor([0]))

STAGES = [
    Row(
        "a stage that trains without an optimizer",
        BadSetting,
        "a stage of ER trains only with an optimizer: give it one, such as MadeOptimizer()",
        lambda at: Stage(ER()),
    ),
    Row(
        "no epochs, or no rows a batch",
        BadSetting,
        "a stage's epochs is at least 1, not 0",
        lambda at: Stage(SimpleCIL(), epochs=0),
    ),
    Row(
        "state kept of an optimizer that counts steps for all weights together",
        BadSetting,
        'optimizer_state = "kept", but TwoFaced answers with other weights than it trains and counts steps for all of them '
        'together: set optimizer_state = "new", or take another optimizer',
        kept_by_two_faces,
    ),
    Row("no steps", BadSetting, "a stage's steps is at least 1 or None, not 0", lambda at: Stage(SimpleCIL(), steps=0)),
    Row(
        "a clip of 0",
        BadSetting,
        "a stage's clip is a positive norm or None, not 0.0",
        lambda at: Stage(SimpleCIL(), clip=0.0),
    ),
    Row(
        "tasks that `when` does not name",
        BadSetting,
        'when = \'sometimes\' is not "every", "first", "later", a number or a span such as "3-5"',
        lambda at: Stage(SimpleCIL(), when="sometimes"),
    ),
    Row(
        "a schedule of shares over an open end",
        BadSetting,
        "a schedule over the stream's clock takes lengths in steps: its end, and so a share of it, is unknown",
        lambda at: Stage(SimpleCIL(), clock="stream", schedule=schedule("cosine")),
    ),
    Row(
        "a clock that there is not",
        UnknownName,
        "unknown value of Stage.clock 'stram': did you mean 'stream'? known are …",
        lambda at: Stage(SimpleCIL(), clock="stram"),
    ),  # pyright: ignore
    Row(
        "no stage",
        BadSetting,
        "a learner needs at least one stage, such as Stage(optimizer=MadeOptimizer())",
        lambda at: Learner(Net(), ()),
    ),
    Row(
        "no steps between marks",
        BadSetting,
        "a learner's mark_every is at least 1, not 0",
        lambda at: Learner(Net(), (Stage(Method(), SGD),), mark_every=0),
    ),
    Row(
        "one method in two stages",
        BadSetting,
        "a method object belongs to one stage: give each stage its own",
        lambda at: learned(*[ER()] * 2),
    ),
    Row(
        "a stream that was cut",
        BadData,
        "stream[0] is experience 1: give the whole stream; the learner finds its place",
        lambda at: list(Learner(Net(), (Stage(Method(), SGD),)).learn(stream()[1:])),
    ),
    Row(
        "a loss that is NaN or infinite",
        NonFinite,
        "the loss became NaN or infinite in experience 0, stage 0, step 2: lower the learning rate, set clip, "
        "or train in fp32; on_nonfinite = 'skip' or 'rollback' leaves such batches out",
        lambda at: learned(Method(), model=Net(norm=False), made=MadeOptimizer("sgd", 1e30)),
    ),
    Row(
        "a loss that depends on no weight",
        BadSetting,
        "the stage of Method trains nothing: its loss depends on no weight that requires a gradient; free "
        "some weights, or leave the stage's optimizer out",
        lambda at: learned(Method(), model=Cut(8, 6)),
    ),
]

DRIVES = [
    Row(
        "labels that the task does not name",
        BadData,
        "task 0 has classes [0, 1], but its rows carry [3]: name them all",
        lambda at: driven(Method(), ODD),
    ),
    Row(
        "a head that is too narrow and cannot grow",
        BadSetting,
        "the task has class 1, but the model answers for 1 classes: give it a head with a method "
        "grow(classes), such as nacre.heads.GrowingLinear, or one that is wide enough; and name the classes "
        "in Task(index, rows, classes)",
        lambda at: driven(Method(), FIRST, nn.Linear(8, 1)),
    ),
    Row(
        "an optimizer that was made before the head grew",
        BadSetting,
        "the head grew to 2 classes, but the optimizer was made before and does not hold the new weights: "
        "give Drive a function from named parameters to an optimizer, or call nacre.grow first",
        grown_late,
    ),
    Row(
        "an optimizer that was made before a method brought parts",
        BadSetting,
        "the optimizer was made before and does not hold parts.MIST.projection.weight, "
        "parts.MIST.projection.bias: give Drive a function from named parameters to an optimizer",
        parts_late,
    ),
    Row(
        "a batch of one row, which BatchNorm cannot normalise",
        TooFewRows,
        "a batch of one row cannot be normalised by BatchNorm1d: choose a batch_size (and accumulate) that "
        "leaves no single row of the 40 of task 0",
        lambda at: driven(Method(), FIRST, batch=ONE),
    ),
    Row(
        "targets of another shape than the answer",
        BadData,
        "the model answers with shape (2, 3), the targets have (2, 2): squared errors need one target for each number",
        lambda at: row_loss(Outputs(torch.zeros(2, 3), torch.zeros(2, 3)), Batch(None, torch.zeros(2, 2))),
    ),
    Row(
        "a model without features, where a part reads them",
        BadModel,
        "SimpleCIL reads features, but the model answers with logits only: let forward() return an object "
        "with .logits and .features, or use nacre.backbones.Classifier(nacre.backbones.tapped(model, layer), "
        "head)",
        lambda at: read(SimpleCIL(), nn.Linear(8, 6)),
    ),
    Row(
        "a second experience of a joined stream",
        IndexError,
        "a joined stream has one experience, 0, not 1",
        lambda at: Joined(stream())[1],
    ),
]

RULES = [
    Row(
        "a method with hooks that only a Drive calls",
        BadUse,
        "EWC also speaks loss, end_stage: attached() would leave them silent; use nacre.Drive",
        lambda at: stepped(EWC(), *line()),
    ),
    Row(
        "a second rule on one optimizer",
        BadUse,
        "a rule is attached to this optimizer already, and of two the last would undo the other's rest: "
        "compose them with nacre.compose(...) and attach once",
        attached_twice,
    ),
    Row(
        "an optimizer of another model",
        BadSetting,
        "the optimizer holds parameters that the model does not name, of shape [(1, 3), (1,)]: was it made "
        "from a wrapper that flattens, from another model, or before prepare() added or grow() replaced a "
        "module?",
        lambda at: stepped(Rest("weight"), line()[0], nn.Linear(3, 1)),
    ),
    Row(
        "a fused optimizer whose gradients are still scaled",
        BadStep,
        "the gradients are still scaled: call scaler.unscale_(optimizer) before scaler.step(optimizer)",
        still_scaled,
    ),
    Row(
        "an optimizer with a copy of the weights that is not known",
        BadStep,
        "Slow keeps a copy of the weights in state['slow']; rest would be undone through it. If it is one, "
        "add 'slow' to nacre.core.rule.COPIES, and it will rest too",
        slow,
    ),
    Row(
        "rest of what the optimizer does not hold",
        BadSetting,
        "Rest names 'head', which the optimizer does not hold: name one that it does, bias, weight",
        lambda at: stepped(Rest({"head": torch.tensor(True)}), *line()),
    ),
    Row(
        "rest of what no name matches",
        BadSetting,
        "Rest('head') finds no parameter: name one that the optimizer holds, bias, weight",
        lambda at: stepped(Rest("head"), *line()),
    ),
    Row(
        "rest by a mask that is not bool",
        BadSetting,
        "Rest takes bool masks; the one of 'weight' is torch.float32: convert it with mask.bool()",
        lambda at: stepped(Rest({"weight": torch.ones(1, 3)}), *line()),
    ),
    Row(
        "an impossible share of places",
        BadSetting,
        "share is a probability in [0, 1], not 2.0",
        lambda at: keep(2.0, 8, "cpu", 0),
    ),
]

METHODS = [
    Row(
        "two parts that both answer",
        BadSetting,
        "only one part may define predict(), but SimpleCIL and RanPAC do: give one of them a stage of its own",
        lambda at: compose(SimpleCIL(), RanPAC()),
    ),
    Row(
        "two methods of one name",
        BadSetting,
        "two methods of one name in the composition ER, ER: their parts could not be told apart; give one of "
        "them a subclass with its own name",
        lambda at: compose(ER(), ER()),
    ),
    Row(
        "Joint met by a second task",
        BadData,
        "Joint trains on all tasks at once, but task 1 follows another: give the driver "
        "nacre.core.stream.Joined(stream)[0], or use a Learner, which joins by itself",
        lambda at: driven(Joint(), stream()[1].task),
    ),
    Row(
        "MIST with nothing to choose from",
        BadSetting,
        "MIST has nothing to choose from: every trainable tensor is a norm or matches free = ''; free fewer "
        "tensors, or unfreeze the backbone",
        lambda at: learned(MIST(width=8, free="")),
    ),
    Row(
        "MIST in compact form that is to leak",
        BadSetting,
        'MIST keeps what is not chosen out of the optimizer with form = "compact", and shows how it moves with where = '
        '"grads": set form = "dense", or where = "moves"',
        lambda at: MIST(form="compact", where="grads"),
    ),
    Row(
        "MIST in compact form with an optimizer of matrices only",
        BadSetting,
        "the optimizer does not hold body.0.weight_values, body.4.weight_values, the chosen entries of MIST in compact form: "
        'give it all that trains, vectors too, or set form = "dense"',
        lambda at: learned(MIST(objective_of="stage", form="compact"), made=matrices),
    ),
    Row(
        "MIST in compact form beside a part that would not be heard",
        BadUse,
        "EWC treats body.0.weight as a whole, of which MIST in compact form trains chosen values only, so that it would "
        'not be heard: set form = "dense"',
        lambda at: learned(compose(EWC(rows=4), MIST(objective_of="stage", form="compact"))),
    ),
    Row(
        "RanPAC with a ridge that cannot be solved",
        BadSetting,
        "ridge regression on random features cannot be solved with ridge = 0 in float32: they are linearly dependent; use a "
        'larger ridge, or precision = "float64"',
        singular,
    ),
    Row(
        "sampled labels of targets that are no classes",
        BadSetting,
        'labels = "sampled" needs one class id a row; for other targets use "empirical"',
        scored,
    ),
    Row(
        "a covariance that was not kept",
        BadSetting,
        'no covariance of a class is kept: set covariance = "low_rank" or "full"',
        lambda at: ClassStatistics(covariance="none").covariance_of(0),
    ),
    Row(
        "a discriminant of means alone",
        BadSetting,
        'no covariance is kept: set covariance = "low_rank", "full" or "shared"',
        lambda at: discriminant(ClassStatistics(covariance="none"), 0.1),
    ),
    Row(
        "SLDA with other statistics",
        BadSetting,
        "SLDA.statistics needs covariance = \"shared\", not 'full': leave the setting out",
        lambda at: SLDA(statistics=ClassStatistics(covariance="full")),
    ),
    Row(
        "ER-ACE on labels that are no classes",
        BadSetting,
        "ERACE needs one class id a row, not labels of shape (8, 2) (torch.float32)",
        lambda at: driven(ERACE(), numbers()),
    ),
    Row(
        "iCaRL on labels that are no classes",
        BadSetting,
        "ICaRL needs one class id a row, not labels of shape (8, 2) (torch.float32)",
        lambda at: driven(ICaRL(), numbers()),
    ),
    Row(
        "rows of several inputs to herd by themselves",
        BadSetting,
        "Herding chooses rows by features, and rows of several inputs (such as token ids and their mask) have none of "
        "themselves: give it features with offer(), as iCaRL does, or keep such rows in another memory",
        lambda at: Herding().add(Batch({"ids": torch.zeros(2, 3), "mask": torch.ones(2, 3)}, torch.zeros(2))),
    ),
    Row(
        "a setting of another type",
        BadSetting,
        "Chooses.size is int, not 'many' (str)",
        lambda at: Chooses(size="many"),
    ),  # pyright: ignore[reportArgumentType]
    Row("a setting out of its range", BadSetting, "Chooses.size must be at least 1, not 0", lambda at: Chooses(size=0)),
    Row(
        "a setting that is not finite",
        BadSetting,
        "Chooses.strength is a finite number, not nan",
        lambda at: Chooses(strength=float("nan")),
    ),
    Row(
        "a setting that is no number, where a range is said",
        BadSetting,
        "Fixed.width is a number, not [1] (list)",
        lambda at: Fixed(width=[1]),
    ),
    Row(
        "a choice that there is not",
        UnknownName,
        "unknown value of EWC.how 'pul': did you mean 'pull'? known are …",
        lambda at: EWC(how="pul"),
    ),  # pyright: ignore[reportArgumentType]
    Row(
        "state that cannot be saved",
        BadUse,
        "Keeps.what is a object; state is a Tensor, number, string, None, Stateful, or a list or str-keyed "
        "dict of these (what can be derived again belongs in a scratch() field)",
        lambda at: Keeps().state_dict(),
    ),
    Row(
        "a memory that does not grow into its tensor",
        BadUse,
        "a kept tensor of shape (3,) does not grow into (2,): only rows are added",
        lambda at: grown(torch.zeros(3), torch.zeros(2)),
    ),
]

CHECKPOINTS = [
    Row(
        "state of another composition",
        BadCheckpoint,
        "EWC keeps ['anchor', 'importance'], the checkpoint has ['memory', 'tasks']: was it written by the same "
        "version and the same composition?",
        lambda at: resumed(saved(ER()), EWC()),
    ),
    Row(
        "a checkpoint of other stages",
        BadCheckpoint,
        "the checkpoint has 1 stages, this learner 2: give it the same",
        lambda at: resumed(saved(ER()), ER(), EWC()),
    ),
    Row(
        "a checkpoint of another model",
        BadCheckpoint,
        "the checkpoint is of another model: …; build the one that was saved",
        lambda at: resumed(saved(ER()), ER(), model=nn.Linear(8, 6)),
    ),
    Row(
        "a learner that knows more than the checkpoint",
        BadCheckpoint,
        "this learner knows 2 classes already, the checkpoint 0: resume it into a fresh learner and model",
        wider,
    ),
    Row(
        "state of another kind",
        BadCheckpoint,
        "Learner.clocks is not what the checkpoint has there, 'a' (str): was it written by another version, or by hand?",
        lambda at: resumed({**saved(ER()), "clocks": "a"}, ER()),
    ),
    Row(
        "a checkpoint of more classes than it has weights for",
        BadCheckpoint,
        "the checkpoint says that there are 1000000000 classes, of which its weights know none: was it written by hand?",
        lambda at: resumed({**saved(ER()), "classes": 10**9}, ER()),
    ),
    Row(
        "what is no learner's",
        BadCheckpoint,
        "this is no learner's checkpoint, for 'model' is missing: give one that it saved",
        lambda at: resumed({}, ER()),
    ),
]
