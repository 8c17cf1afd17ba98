"""What a part must say when it is used wrongly."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from torch import nn

from ..core.errors import BadSetting, NacreError
from ..core.method import compose
from .check import Case, Skipped, check
from .kinds import is_part, learns
from .runs import SGD, finish, learner
from .worlds import SHORT, VECTORS


@check(is_part)
def settings_are_checked(case: Case) -> None:
    """A setting of the wrong type or out of its range is refused, naming the part, the setting and the value."""
    kind, tried = type(case.part), 0
    for f in fields(case.part):
        value = getattr(case.part, f.name)
        low, high = f.metadata.get("low"), f.metadata.get("high")
        wrong: list[Any] = [v for v, there in ((low, low), (high, high)) if there is not None]
        wrong = [v - 1 if v == low else v + 1 for v in wrong]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and f.init:
            wrong += [object()]
        for bad in wrong:
            tried += 1
            said = {g.name: getattr(case.part, g.name) for g in fields(case.part) if g.init and g.default is MISSING}
            try:
                kind(**{**said, f.name: bad})
                figure = "it is taken"
            except NacreError as error:
                figure = "" if f.name in str(error) and kind.__name__ in str(error) else f"the error says: {error}"
            except Exception as error:
                figure = f"it raises {type(error).__name__}: {error}"
            case.holds(
                not figure, f"{f.name} = {bad!r} is refused by name", figure,
                "a __post_init__ that does not call super(), or a setting without setting(..., low=, high=)",
            )  # fmt: skip
    if not tried:
        raise Skipped("it has no numbers among its settings")


@check(learns)
def says_the_cure(case: Case) -> None:
    """A model without features and a second read-out are refused by errors that name the part and the cure."""
    plain = nn.Linear(8, 6)
    try:
        finish(learner(case.fresh(), model=plain, optimizer=None if _no_training(case) else SGD), VECTORS.stream(SHORT))
    except (TypeError, NacreError) as error:
        names = type(case.part).__name__ in str(error) or "parameter" in str(error)
        case.holds(
            names and len(str(error)) > 40, "a model without features is refused by name, with the cure",
            f"the error says: {error}", "features read without Outputs.need_features(name)",
        )  # fmt: skip
    for hook in ("objective", "predict"):
        if case.part.overrides(hook):
            other: Any = type("Other", (type(case.part),), {})
            try:
                compose(case.fresh(), other(**_said(case)))
                figure = "nothing is said"
            except BadSetting as error:
                figure = "" if "Other" in str(error) and type(case.part).__name__ in str(error) else str(error)
            case.holds(
                not figure, f"two parts that both define {hook}() are refused by name", figure, "an own compose()"
            )


def _no_training(case: Case) -> bool:
    return learner(case.fresh()).stages[0].optimizer is None


def _said(case: Case) -> dict[str, Any]:
    return {f.name: getattr(case.part, f.name) for f in fields(case.part) if f.init}
