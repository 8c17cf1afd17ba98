"""Rules reshape optimizer steps. `attached` runs one around `optimizer.step()` in anybody's loop.

To control how far a parameter moves, a rule acts on the step that was taken, not on the gradient: weight decay and momentum
move entries whose gradient is zero, and Adam divides a constant factor out again. So what shall rest is put back after the
step, bit for bit, under any optimizer.

It is over 300 lines because what happens around a step is told in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import BadSetting, BadStep, BadUse
from .kept import Kept
from .model import bare, head_prefixes
from .shards import explained, local, norm
from .state import Stateful, Tensors
from .stream import Task

COPIES = {"z", "ax", "master", "master_param", "slow_buffer", "slow_params", "lookahead_slow_buff"}
"""Optimizer state that is itself weights: schedule-free's `z`, ASGD's `ax`, fp32 masters. It rests with them."""

_ATTACHED: WeakSet[Optimizer] = WeakSet()


@dataclass
class Site:
    """Where a step happens: what a rule may read.

    Attributes:
        model: The bare model, never a wrapper.
        optimizer: The optimizer that steps.
        params: What the optimizer holds, by name; trainable parts of methods read `parts.<Method>.<name>`.
        rule: The whole composition.
        step: How many steps of this stage took effect, or were left out by the learner.
        took_effect: Whether the latest step did (a GradScaler skips steps).
        task: What is being learned, as methods are given it; None where a rule is attached to a loop of somebody's own.
        passes: How often the present step has called its closure; 0 where it has none.
    """

    model: nn.Module
    optimizer: Optimizer
    params: dict[str, nn.Parameter]
    rule: Rule
    step: int = 0
    took_effect: bool = True
    task: Task | None = None
    passes: int = 0
    looked: Any = None
    group_of: dict[int, dict[str, Any]] = field(default_factory=dict)
    heads: tuple[str, ...] | None = None

    def in_body(self, name: str) -> bool:
        """Whether a parameter belongs neither to a head of the model nor to a method's parts."""
        if self.heads is None:
            self.heads = tuple(f"{p}." for p in head_prefixes(self.model))
        return not name.startswith(("parts.", *self.heads))

    def lr(self, name: str) -> float:
        """The learning rate that the optimizer uses for a parameter now."""
        return float(self.group(name)["lr"])

    def group(self, name: str) -> dict[str, Any]:
        """The optimizer's settings for a parameter."""
        groups = self.optimizer.param_groups
        if self.looked is not groups:  # load_state_dict makes new ones
            self.looked, self.group_of = groups, {id(p): g for g in groups for p in g["params"]}
        return self.group_of[id(self.params[name])]


@dataclass
class Rule(Stateful):
    """Reshapes optimizer steps; knows steps, not tasks. Every hook is the identity unless overridden.

    Attributes:
        off: Settings at which the part leaves the optimizer alone, bit for bit.
    """

    off: ClassVar[dict[str, Any]] = {}

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:  # pipe
        """Change the gradients once a step, before the optimizer reads them.

        With a closure it may be called more often, so learn nothing here. Return the same keys and shapes.
        """
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:  # pipe
        """Change the weights after the step.

        What is learned here belongs in own `state()` fields: where a step is undone (`on_nonfinite = "skip"`), they are too.

        Args:
            new: The live weights; changing them in place is allowed.
            old: The values before the step, of the tensors that `needs_old` asked for; read only.
            site: Where the step happened.

        Returns:
            The weights as they shall be, under the same keys.
        """
        return new

    def needs_old(self, name: str) -> bool:  # any
        """Whether `shape_weights` reads the old value of this tensor at this step."""
        return self.overrides("shape_weights")

    def resting(self, site: Site) -> Tensors:  # union, applied last of all
        """Entries that keep their old value bit for bit at this step: True rests.

        Asked before the step. A mask may be 0-dim (the whole tensor) or shorter than its tensor in dim 0; rows beyond its
        end move. Must be a function of `site` alone.
        """
        return {}

    def still(self, site: Site) -> Tensors:  # union
        """Entries that rest at every step of this stage; modules that wholly do stay in eval."""
        return self.resting(site)

    def wants_whole(self, name: str) -> bool | None:  # any
        """Whether it must be shown the whole of this weight: it goes by its shape, or remembers it from stage to stage.

        Beside a part that holds chosen entries of weights only, it would not be heard and is refused. None = it does if it is a
        method that offsets weights, or keeps tensors by name in a `state()` field.
        """
        return None

    def overrides(self, hook: str) -> bool:
        """Whether this part speaks a hook, that is, defines it anew."""
        base = next((c for c in reversed(type(self).__mro__) if hook in vars(c)), None)
        return base is not None and getattr(type(self), hook) is not vars(base)[hook]


@contextmanager
def attached(rule: Rule, optimizer: Optimizer, model: nn.Module) -> Iterator[Site]:
    """Shape every `optimizer.step()` in the block by `rule`, in any training loop.

    Args:
        rule: A rule, or several composed with `nacre.compose`.
        optimizer: Any torch optimizer over parameters of `model`.
        model: The model, wrapped or not.

    Raises:
        BadUse: `rule` is a method that also speaks hooks which only a Drive calls, or another rule is attached already.
        BadSetting: the optimizer holds a parameter that `model` does not name.

    Example:
        >>> from nacre.rules import Rest
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
        >>> before = model.weight.detach().clone()
        >>> with attached(Rest({"weight": torch.tensor(True)}), optimizer, model):
        ...     model(torch.ones(2, 3)).sum().backward()
        ...     optimizer.step()
        >>> torch.equal(model.weight, before)
        True
    """
    if unheard := [h for h in getattr(rule, "TASK_HOOKS", ()) if rule.overrides(h)]:
        raise BadUse(
            f"{type(rule).__name__} also speaks {', '.join(unheard)}: attached() would leave them silent; use nacre.Drive"
        )
    with hooked(rule, optimizer, model, dict(bare(model).named_parameters())) as site:
        yield site


@contextmanager
def hooked(
    rule: Rule, optimizer: Optimizer, model: nn.Module, named: dict[str, nn.Parameter], step: int = 0
) -> Iterator[Site]:
    """`attached` without the refusal of methods: for drivers, which call the other hooks."""
    if optimizer in _ATTACHED:
        raise BadUse(
            "a rule is attached to this optimizer already, and of two the last would undo the other's rest: "
            "compose them with nacre.compose(...) and attach once"
        )
    name_of = {id(p): n for n, p in named.items()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if nameless := [tuple(p.shape) for p in held if id(p) not in name_of]:
        raise BadSetting(
            f"the optimizer holds parameters that the model does not name, of shape {nameless[:3]}: was it made from a "
            "wrapper that flattens, from another model, or before prepare() added or grow() replaced a module?"
        )
    shaper = _Shaper(rule, Site(bare(model), optimizer, {name_of[id(p)]: p for p in held}, rule, step))
    handles = [optimizer.register_step_pre_hook(shaper.before), optimizer.register_step_post_hook(shaper.after)]
    _ATTACHED.add(optimizer)
    try:
        yield shaper.site
    finally:
        _ATTACHED.discard(optimizer)
        for handle in handles:
            handle.remove()


class _Shaper:
    """The two hooks around `optimizer.step()`, and the old values between them."""

    def __init__(self, rule: Rule, site: Site):
        self.rule, self.site = rule, site
        self.grads_shaped = rule.overrides("shape_grads")
        self.weights_shaped = rule.overrides("shape_weights")
        self.rests = rule.overrides("resting")
        self.kept: dict[str, Kept] = {}  # the memory is used again at every step
        self.copies: dict[tuple[str, str], Tensor] = {}  # old values of the optimizer's own copies
        self.rested: list[str] = []  # what rests at this step
        self.old: Tensors = {}
        self.checked = False
        self.depth = 0
        # torch fires step hooks once for each class of an optimizer that calls super().step()
        self.layers = sum(hasattr(vars(c).get("step"), "hooked") for c in type(site.optimizer).__mro__)

    def before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.depth = 1 if self.depth >= self.layers else self.depth + 1  # at `layers` only after a step that raised
        if self.depth > 1:
            return None
        if getattr(optimizer, "grad_scale", None) is not None:
            raise BadStep(
                "the gradients are still scaled: call scaler.unscale_(optimizer) before scaler.step(optimizer)"
            )
        self.site.took_effect, self.site.passes = not bool(getattr(optimizer, "found_inf", None)), 0
        if not self.site.took_effect:
            return None
        if self.rests or self.weights_shaped:
            with torch.no_grad():
                self._keep_old()
        closure: Callable[[], Any] | None = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if closure is None:
            if self.grads_shaped:
                with torch.no_grad():
                    self._shape_grads()
            return None

        def shaped() -> Any:  # LBFGS and others run the backward pass inside step()
            self.site.passes += 1
            with torch.enable_grad():
                loss = closure()
            if self.grads_shaped:
                with torch.no_grad():
                    self._shape_grads()
            return loss

        return args[:1], {**kwargs, "closure": shaped}

    def after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.depth -= 1
        if self.depth or not self.site.took_effect:
            return
        if self.rests or self.weights_shaped:
            with torch.no_grad():
                self._shape_weights(optimizer)
        self.site.step += 1

    def _shape_weights(self, optimizer: Optimizer) -> None:
        """Let the rule shape the weights, then put back what rests."""
        if self.weights_shaped:
            new = {n: p.data for n, p in self.site.params.items()}
            with explained(self.rule):
                for n, weight in self.rule.shape_weights(dict(new), self.old, self.site).items():
                    if weight is not new[n]:
                        new[n].copy_(weight)
        if self.old and not self.checked:
            _refuse_unknown_copies(optimizer, self.site, self.old)
            self.checked = True
        if self.rested:
            self._put_copies_back()
            for n in self.rested:
                self.kept[n].put_back()

    def _shape_grads(self) -> None:
        grads = {n: p.grad for n, p in self.site.params.items() if p.grad is not None}
        with explained(self.rule):
            for n, grad in self.rule.shape_grads(dict(grads), self.site).items():
                if grad is not grads[n]:
                    self.site.params[n].grad = grad

    def _keep_old(self) -> None:
        """Copy what will be put back or asked for; only tensors that a rule touches at this step."""
        params = self.site.params
        asked = self.rule.resting(self.site) if self.rests else {}
        self.rested = [n for n in asked if n in params]  # a frozen tensor is not the optimizer's
        names = list(self.rested)
        if self.weights_shaped:
            names += [n for n in params if n not in asked and self.rule.needs_old(n)]
        for n in names:
            kept = self.kept.get(n)
            if kept is None or kept.param is not params[n] or not kept.fits():  # another one: the head grew
                kept = self.kept[n] = Kept(params[n])
            if n in asked:
                kept.rest(asked[n])
        held = [self.kept[n] for n in names]
        self.old = {n: kept.seen for n, kept in zip(names, held, strict=True)}
        if held:
            torch._foreach_copy_([kept.old for kept in held], [kept.live for kept in held])
        self.copies = {(n, key): local(own[key]).clone() for n, own, key in self._copies()}

    def _copies(self) -> Iterator[tuple[str, dict[str, Tensor], str]]:
        """Each copy of a resting weight in the optimizer's state: (name, the weight's state, key)."""
        state: dict[Tensor, dict[str, Tensor]] = self.site.optimizer.state
        if any(not COPIES.isdisjoint(own) for own in state.values()):
            for n in self.rested:
                own = state.get(self.site.params[n], {})
                for key in sorted(COPIES & own.keys()):
                    yield n, own, key

    def _put_copies_back(self) -> None:
        for n, own, key in self._copies():
            kept, copy = self.kept[n], local(own[key])
            before = self.copies.get((n, key), kept.old)  # before its first step a copy was the weight itself
            torch.where(kept.mask, before.to(copy.dtype), copy, out=copy)


def _refuse_unknown_copies(optimizer: Optimizer, site: Site, old: Tensors) -> None:
    """Optimizer state that lies near all the weights is a second copy of them: rest would be undone through it.

    Seen by value: under one key, the state of every tensor is nearer to its weight than half the weight's norm. One small
    tensor may lie there by chance, so all must. torch's own optimizers are known.
    """
    if type(optimizer).__module__.startswith("torch.optim."):
        return
    near: dict[str, list[bool]] = {}
    for n, weight in old.items():
        size = norm(weight.float())
        for key, value in optimizer.state.get(site.params[n], {}).items():
            alike = isinstance(value, Tensor) and value.shape == weight.shape and weight.numel() > 1
            if alike and key not in COPIES and size > 0:
                near.setdefault(key, []).append(bool(norm(value.float() - weight.float()) < 0.5 * size))
    for key in (k for k, found in near.items() if all(found)):
        raise BadStep(
            f"{type(optimizer).__name__} keeps a copy of the weights in state[{key!r}]; rest would be undone through it. If "
            f"it is one, add {key!r} to nacre.core.rule.COPIES, and it will rest too"
        )
