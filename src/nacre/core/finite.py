"""NaN and infinity while a stage trains: where they came up first, and a step that is undone."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from . import ranks, shards
from .errors import NonFinite
from .method import leaves, parts_of
from .rows import Batch
from .rule import Site
from .state import Stateful

logger = logging.getLogger(__name__)
OnNonFinite = Literal["stop", "skip", "rollback"]
DONE = {"skip": "skipped", "rollback": "rolled back"}
ROLLBACKS = 3  # in a run
SKIPS = 50  # one after the other: more are no accident
EVERY = 50  # on accelerators a loss that only stops the run is read back so often: reading waits for the device


@dataclass(frozen=True)
class Found:
    """What became NaN or infinite first, in words, and in which step of the stage, counted from 1."""

    tensor: str
    step: int


class Guard:
    """Looks for NaN and infinity around each step of a stage.

    Under "stop" that is the loss of each step, on accelerators read back every `EVERY` steps, and the weights whenever
    `read` is called. Under "skip" and "rollback" it is loss and gradients before each step and the weights after it, which
    waits for the device twice a step; "skip" also keeps what a step changes.

    Args:
        mode: What is done about them.
        site: Where the steps happen.
        device: The model's.
        place: Which stage it is, for the record.
        events: What came up in this run and was done; the list is added to.
    """

    def __init__(
        self,
        mode: OnNonFinite,
        site: Site,
        device: torch.device,
        place: dict[str, int],
        events: list[dict[str, Any]],
    ):
        self.mode, self.site, self.place, self.events = mode, site, place, events
        self.undo = Undo(site) if mode == "skip" else None
        self.every = 1 if device.type == "cpu" else EVERY
        self.bad = torch.zeros((), dtype=torch.long, device=device)  # the first step of a bad loss; 0 = none

    def begin(self) -> None:
        """Before the forward pass of a step."""
        if self.undo is not None:
            self.undo.keep()

    def before_step(self, loss: Tensor, rows: Sequence[Batch]) -> Found | None:
        """After the backward pass and before the optimizer steps."""
        step = self.site.step + 1
        if self.mode == "stop":
            if self.every == 1 and math.isfinite(float(loss)):
                return None  # where nobody waits for it a look costs less than noting it down
            self.bad = torch.where((self.bad == 0) & ~loss.isfinite(), step, self.bad)
            return self._in_loss(loss, rows) if step % self.every == 0 else None
        grads = {n: p.grad for n, p in self.site.params.items() if p.grad is not None}
        if finite([loss, *grads.values()]):
            return None
        if bool(loss.isfinite()):
            return Found(f"the gradient of {first_of(grads)}", step)
        return Found(self._cause(rows), step)

    def after_step(self) -> Found | None:
        """After the optimizer stepped."""
        return None if self.mode == "stop" else self._in_weights()

    def read(self) -> Found | None:
        """Whatever "stop" has not looked at yet: the losses so far, and the weights as they are."""
        return (self._in_loss() or self._in_weights()) if self.mode == "stop" else None

    def answer(self, found: Found, back_to: int | None = None) -> dict[str, Any]:
        """Write down what came up and what is done about it; a step that is skipped is undone.

        Args:
            found: What came up.
            back_to: How many steps of the stage were done at the place that a rollback returns to.

        Returns:
            The event, as it is in the list.

        Raises:
            NonFinite: the run stops, as it is told to or because this has happened too often.
        """
        many = self._too_many(found)
        done = "stopped" if many or self.mode == "stop" else DONE[self.mode]
        back_to = back_to if done == "rolled back" else None
        event = {**self.place, "step": found.step, "tensor": found.tensor, "done": done, "back_to": back_to}
        self.events.append(event)
        said = f"{found.tensor} became NaN or infinite in experience {event['task']}, stage {event['stage']}, step {found.step}"
        if done == "stopped":
            raise NonFinite(
                f"{said}{many}: lower the learning rate, set clip, or train in fp32; on_nonfinite = "
                f"{' or '.join(repr(mode) for mode in DONE if mode != self.mode)} leaves such batches out"
            )
        if self.undo is not None:
            self.undo.undo()
        logger.warning("%s: %s%s", said, done, "" if back_to is None else f" to step {back_to}")
        return event

    def _too_many(self, found: Found) -> str:
        """Why the run stops although it is told to go on; empty where it goes on."""
        if self.mode == "rollback" and sum(e["done"] == "rolled back" for e in self.events) >= ROLLBACKS:
            return f", after the run went back {ROLLBACKS} times"
        before = [e["step"] for e in self.events[-SKIPS:] if {key: e[key] for key in self.place} == self.place]
        if self.mode == "skip" and before == list(range(found.step - SKIPS, found.step)):
            return f", after the {SKIPS} steps before it were skipped"
        return ""

    def _in_loss(self, loss: Tensor | None = None, rows: Sequence[Batch] = ()) -> Found | None:
        step = int(self.bad)
        if not step:
            return None
        now = loss is not None and step == self.site.step + 1
        return Found(self._cause(rows) if now else "the loss", step)

    def _in_weights(self) -> Found | None:
        weights = self.site.params
        return None if finite(weights.values()) else Found(f"the weight {first_of(weights)}", self.site.step)

    def _cause(self, rows: Sequence[Batch]) -> str:
        """What made a loss non-finite: a weight that is, the rows, or the loss itself."""
        if weight := first_of(self.site.params):
            return f"the weight {weight}"
        given = [x for batch in rows for x in (batch.x.values() if isinstance(batch.x, Mapping) else [batch.x])]
        sound = finite(x for x in given if x.is_floating_point())
        return "the loss" if all(ranks.gathered(sound)) else "the batch of rows"


class Undo:
    """What a step changes, as it was before: weights, buffers that a forward pass moves, what optimizer and rules learn."""

    def __init__(self, site: Site):
        self.optimizer, self.modules = site.optimizer, (site.model, parts_of(site.rule))
        self.learned = [Learned(part) for part in leaves(site.rule) if part.overrides("shape_weights")]
        self.kept: dict[Any, Tensor] = {}
        self.plain: dict[Tensor, dict[str, Any]] = {}
        self.groups: list[dict[str, Any]] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Remember everything as it is; the memory is used again at every step."""
        live = dict(self._tensors())
        if {key: t.shape for key, t in live.items()} != {key: t.shape for key, t in self.kept.items()}:  # a head grew
            self.kept = {key: torch.empty_like(t) for key, t in live.items()}
        torch._foreach_copy_(list(self.kept.values()), list(live.values()))
        state: dict[Tensor, dict[str, Any]] = self.optimizer.state
        self.plain = {p: _own({k: v for k, v in own.items() if not isinstance(v, Tensor)}) for p, own in state.items()}
        self.groups = [_own({k: v for k, v in g.items() if k != "params"}) for g in self.optimizer.param_groups]
        for learned in self.learned:
            learned.keep()

    @torch.no_grad()
    def undo(self) -> None:
        """Make everything what it was."""
        state: dict[Tensor, dict[str, Any]] = self.optimizer.state
        for p in [p for p in state if p not in self.plain]:
            del state[p]  # made by the step
        for p, own in state.items():
            for key in [k for k in own if (p, k) not in self.kept]:
                del own[key]
            own.update(_own(self.plain[p]))
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.update(_own(before))
        live = dict(self._tensors())
        torch._foreach_copy_(list(live.values()), [self.kept[key] for key in live])
        for learned in self.learned:
            learned.undo()

    def _tensors(self) -> Iterator[tuple[Any, Tensor]]:
        for i, group in enumerate(self.optimizer.param_groups):
            yield from (((i, k), shards.local(p)) for k, p in enumerate(group["params"]))
        for i, module in enumerate(self.modules):
            yield from module.named_buffers(str(i))
        for p, own in self.optimizer.state.items():
            yield from (((p, k), shards.local(v)) for k, v in own.items() if isinstance(v, Tensor))


class Learned:
    """The `state()` fields of one part as they were before a step, which `shape_weights` may change.

    Tensors that nobody has written to since they were kept are not copied again. Parts inside (memories) learn when the step
    has taken effect, and stay as they are.
    """

    def __init__(self, part: Stateful):
        self.part = part
        names = [f.name for f in fields(part) if f.metadata.get("kind") == "state"]
        self.names = [n for n in names if not isinstance(getattr(part, n), Stateful)]
        self.held: dict[str, tuple[Any, Any]] = {}  # what each field holds, and a copy of it but for the tensors
        self.copies: dict[int, tuple[Tensor, int, Tensor]] = {}  # each tensor, its version and its values, by its id

    def keep(self) -> None:
        """Remember everything as it is."""
        self.held = {n: (value, _branches(value)) for n in self.names for value in [getattr(self.part, n)]}
        before, self.copies = self.copies, {}
        for t in _leaves([tree for _, tree in self.held.values()]):
            _, version, was = before.get(id(t), (t, -1, None))
            if was is None or was.shape != t.shape or was.dtype != t.dtype:
                was = t.detach().clone()
            elif version != t._version:
                was.copy_(t)
            self.copies[id(t)] = (t, t._version, was)

    def undo(self) -> None:
        """Make everything what it was."""
        for n, (value, tree) in self.held.items():
            if isinstance(value, dict):
                value.clear()
                value.update(_branches(tree))
                tree = value
            setattr(self.part, n, tree)
        for key, (t, version, was) in self.copies.items():
            if t._version != version:
                t.copy_(was)
                self.copies[key] = (t, t._version, was)


def _branches(tree: Any) -> Any:
    """A copy of lists and dicts around the same tensors."""
    if isinstance(tree, dict):
        return {k: _branches(v) for k, v in tree.items()}
    return [_branches(v) for v in tree] if isinstance(tree, list) else tree


def _leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors in lists and dicts."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (dict, list)):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(value)


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every entry of every tensor is finite; waits for their device, and for the ranks that hold the other parts.

    >>> finite([torch.ones(2), torch.full((3,), 1e30)]), finite([torch.ones(2), torch.tensor([1.0, -torch.inf])])
    (True, False)
    """
    given = list(tensors)
    parts = [t._values() if t.is_sparse else shards.local(t).detach() for t in given]
    good = _finite([t for t in parts if t.numel()])
    if ranks.world() > 1 and any(map(shards.is_sharded, given)):
        bad = torch.tensor(float(not good), device=parts[0].device)
        ranks.total([bad])
        good = not bool(bad)
    return good


def _finite(held: list[Tensor]) -> bool:
    if not held:
        return True
    norms = torch.stack([n.to(held[0].device) for n in torch._foreach_norm(held)])  # the fastest pass over all entries
    return bool(norms.isfinite().all()) or all(bool(t.isfinite().all()) for t in held)  # squares may overflow


def first_of(named: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with an entry that is not finite; empty where there is none."""
    return next((n for n, t in named.items() if not finite([t])), "")


def _own(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v.detach().clone() if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in values.items()}
