"""A record in words and in short numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.run import Run, percent
from .figures import Value, fullest
from .pieces import Reference

FIDELITY = {
    "reproduced": "agrees with a trusted table or with reference code that was run",
    "faithful": "the published formulas, tested",
    "inspired": "rebuilt from the published idea; the exact rule was not available",
}
ARRIVES = {
    "online": " Its rows were met once.",
    "task-free": " Its rows were met once, and nobody told where tasks end.",
}
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5}|[a-z-]+/\d{7})")


def percents(value: Value) -> str:
    """A share in percent, with its spread."""
    return percent(value.mean, value.spread)


def length(value: Value) -> str:
    """A relative length in percent with two digits that count.

    >>> length(Value(0.01234)), length(Value(0.0)), length(Value(2.5, 0.1))
    ('1.2', '0', '250 ± 10')
    """
    number = 100 * value.mean
    if math.isnan(number):
        return "-"
    if number == 0:
        return "0"
    if not 1e-4 <= abs(number) < 1e6:
        return f"{number:.1e}"
    digits = max(0, 1 - math.floor(math.log10(abs(number))))
    return f"{number:.{digits}f}" + (f" ± {100 * value.spread:.{digits}f}" if value.spread else "")


def seconds(value: float) -> str:
    """A time in the unit that suits it.

    >>> seconds(0.034), seconds(75.0), seconds(7300.0), seconds(float("nan"))
    ('0.03 s', '75 s', '2 h 2 min', '-')
    """
    if math.isnan(value):
        return "-"
    if value < 120:
        return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2}f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def memory(count: float) -> str:
    """Bytes in the unit that suits them."""
    if not count or math.isnan(count):
        return "-"
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def counted(count: float) -> str:
    """A whole number with its thousands apart.

    >>> counted(1234567)
    '1,234,567'
    """
    return f"{int(count):,}"


def many(count: int, one: str, several: str = "") -> str:
    """A number with its noun.

    >>> many(1, "task"), many(2, "class", "classes")
    ('1 task', '2 classes')
    """
    return f"{counted(count)} {one if count == 1 else several or one + 's'}"


def listed(words: Sequence[str]) -> str:
    """Words one after the other.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def what_was_run(run: Run) -> str:
    """What was learned from what, by which methods, in a few sentences."""
    settings = run.settings
    data = _first_data(run)
    stream = data.get("stream") or {}
    rows = data.get("rows") or {}
    source = data.get("source") or (settings.get("data") or {}).get("source") or "unknown data"
    kind = stream.get("kind") or (settings.get("stream") or {}).get("kind") or "stream"
    counts = [many(stream["length"], "task")] if "length" in stream else []
    counts += [many(data["classes"], "class", "classes")] if data.get("classes") else []
    counts += [f"{many(rows['train'], 'row')} to learn from"] if "train" in rows else []
    counts += [f"{counted(rows['test'])} to be tested on"] if "test" in rows else []
    body = settings.get("backbone") or {}
    model = (
        f"The backbone {body.get('source', 'unknown')}{', frozen,' if body.get('frozen') else ''} was carried through"
    )
    first = f"{model} {source} as a {kind} stream{': ' + listed(counts) if counts else ''}."
    first += ARRIVES.get(str(stream.get("arrival")), "")
    told = " Prediction was told which task a row comes from." if stream.get("told") else ""
    stages = " ".join(_stage(stage, k) for k, stage in enumerate(run.stages))
    return f"{first}{told} {stages}".strip()


def _first_data(run: Run) -> Mapping[str, Any]:
    result = fullest(run)
    return result.data if result is not None else {}


def _stage(stage: Mapping[str, Any], place: int) -> str:
    names = [str(m.get("name", m)) if isinstance(m, Mapping) else str(m) for m in stage.get("methods") or []]
    when = {"every": "On each task", "first": "On the first task", "later": "On every task but the first"}
    on = when.get(str(stage.get("when", "every")), f"On tasks {stage.get('when')}")
    then = on if place == 0 else f"Then, {on[0].lower()}{on[1:]},"
    method = listed(names) if names else "plain fine-tuning"
    optimizer = stage.get("optimizer")
    if not isinstance(optimizer, Mapping):
        return f"{then} {method} read the features out."
    length_ = many(stage["steps"], "step") if stage.get("steps") else many(int(stage.get("epochs") or 1), "epoch")
    rate = f" with a rate of {optimizer['lr']:g}" if isinstance(optimizer.get("lr"), (int, float)) else ""
    return f"{then} {method} learned for {length_}{' each' if on == 'On each task' else ''} by {optimizer.get('name')}{rate}."


def what_came_of_it(run: Run) -> str:
    """The figures that matter, in sentences; how the run ended, where it did not finish."""
    score = run.score.get("name", "accuracy")
    last, learning, forgotten, moved = (Value(*run.figure(n)) for n in ("last", "learning", "forgetting", "moved"))
    found = []
    if not math.isnan(last.mean):
        when = "After the last task" if run.status == "finished" else "So far"
        found.append(f"{when} the mean {score} over all tasks is {percents(last)} %")
        if not math.isnan(learning.mean):
            found[-1] += f"; just after a task was learned it was {percents(learning)} %"
        if not math.isnan(forgotten.mean):
            how = "lost" if forgotten.mean >= 0 else "gained"
            points = percents(Value(abs(forgotten.mean), forgotten.spread))
            found[-1] += f", and earlier tasks {how} {points} points since their best"
        found[-1] += "."
    if not math.isnan(moved.mean):
        found.append(f"In the task with the most motion {percents(moved)} % of all entries moved.")
    if len(run.results) > 1:
        found.append(f"Figures are the mean over {len(run.results)} seeds ± the sample standard deviation.")
    return " ".join(found)


def how_it_stands(run: Run) -> str:
    """Why there is less to see than there might be; empty for a finished run."""
    missing = [str(s) for s in run.seeds if s not in run.results]
    lacking = f" No figures of seed{'s' * (len(missing) > 1)} {listed(missing)}." if missing else ""
    match run.status:
        case "failed":
            return f"The run failed: {run.error or 'it does not say why'}.{lacking} What was measured before is shown."
        case "interrupted":
            return (
                f"The run was interrupted; `nacre resume` goes on with it.{lacking} What was measured before is shown."
            )
        case "running":
            return f"The run had not ended when this page was made.{lacking}"
    return ""


def references(run: Run) -> list[Reference]:
    """The methods that ran, where they come from and how sure we are of them."""
    found = []
    for name, paper in run.papers.items():
        fidelity = run.fidelity.get(name, "")
        at = ARXIV.search(paper)
        link = f"https://arxiv.org/abs/{at[1]}" if at else ""
        found.append(Reference(name, fidelity or "unknown", FIDELITY.get(fidelity, ""), paper, link))
    return found


def flat(tree: Any, place: str = "") -> dict[str, str]:
    """Settings by their place, in the words of a config.

    >>> flat({"a": {"b": [1, {"c": None}]}, "d": "x"})
    {'a.b.0': '1', 'a.b.1.c': 'none', 'd': 'x'}
    """
    if isinstance(tree, Mapping) and tree:
        return {k: v for name, inner in tree.items() for k, v in flat(inner, _below(place, str(name))).items()}
    if isinstance(tree, list) and any(isinstance(inner, Mapping) for inner in tree):
        return {k: v for i, inner in enumerate(tree) for k, v in flat(inner, _below(place, str(i))).items()}
    return {} if tree == [] and place.endswith(".methods") else {place: _plain(tree)}  # plain fine-tuning names none


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def settings_of(run: Run) -> dict[str, str]:
    """All settings of a run by their place; those of its stages as they were resolved."""
    tables = {name: table for name, table in run.settings.items() if name != "stage"}
    return flat({**tables, "stage": run.stages or run.settings.get("stage") or []})


Difference = tuple[str, list[str]]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """The settings in which runs differ, and what each says; "-" where it has no such setting."""
    each = [settings_of(run) for run in runs]
    places = list(dict.fromkeys(place for said in each for place in said if place != "run.name"))
    found = [(place, [said.get(place, "-") for said in each]) for place in places]
    return [(place, said) for place, said in found if len(set(said)) > 1]


def telling(differing: Sequence[Difference]) -> list[Difference]:
    """Those differences that say something by themselves: of two parts that are not the same their names, and rates.

    >>> names, other = ("stage.0.methods.0.name", ["EWC", "SI"]), ("stage.0.methods.0.strength", ["100", "-"])
    >>> telling([names, other, ("data.source", ["digits", "mnist"])])
    [('stage.0.methods.0.name', ['EWC', 'SI']), ('data.source', ['digits', 'mnist'])]
    """
    others = {place.removesuffix("name") for place, _ in differing if place.endswith(".name")}
    lone = {f"stage.{place.split('.')[1]}." for place, said in differing if place.endswith(".when") and "-" in said}
    found = []
    for place, said in differing:
        inside = [front for front in others if place.startswith(front) and place != f"{front}name"]
        rate = place.endswith(".optimizer.lr") and not any(place.startswith(stage) for stage in lone)
        of_lone = [stage for stage in lone if place.startswith(stage)]
        told = not of_lone or ".methods." in place or place.endswith(".when")
        if rate or (told and not inside):
            found.append((place, said))
    return found
