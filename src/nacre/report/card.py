"""A model card: what a run's record says of the model that came out of it, for people who find it elsewhere."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.run import Result, Run, percent

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
SHOWN = 20  # rows and columns of a table; classes named one by one
MEANING = {
    "last": "mean over the tasks after the last one",
    "average": "the same, averaged over all moments",
    "union": "over all test rows, all classes competing",
    "learning": "each task just after it was learned",
    "forgetting": "best minus last",
}


def card(run: Run, told: Mapping[str, Any], seed: int | None = None) -> str:
    """The text of a `README.md`; each figure in it is one of the record.

    Args:
        run: The record.
        told: What the folder holds: `reads`, `base`, `auto`, `adapters`, `classes`, `method`, as `nacre export` says them.
        seed: Whose matrix and motion are shown; None = the first.

    >>> run = Run("demo", "finished", seeds=[0], results={0: Result(summary={"last": 0.5})})
    >>> text = card(run, {"reads": "numbers", "base": "mlp", "auto": False, "adapters": [], "classes": ["a"], "method": ""})
    >>> text.splitlines()[:2], "50.0" in text
    (['---', 'library_name: "nacre"'], True)
    """
    seed = seed if seed is not None else next(iter(run.results), run.seeds[0] if run.seeds else 0)
    result = run.results.get(seed, Result())
    parts = [
        _front(run, told, result),
        f"# {run.name}\n\n{_summary(run, told, result)}",
        _how_to_load(told),
        _method(run, told),
        _data(result),
        _figures(run),
        _matrix(run, result, seed),
        _motion(result, seed),
        _limits(run, result, told),
        _classes(told["classes"]),
        _made_with(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def methods_of(run: Run) -> list[str]:
    """The methods of a run's stages, by name."""
    return [str(m["name"]) for stage in run.stages for m in stage.get("methods", [])]


def _front(run: Run, told: Mapping[str, Any], result: Result) -> str:
    """The YAML that the hub reads; JSON strings are YAML too."""
    tasks = {"texts": "feature-extraction", "pictures": "image-feature-extraction"}
    front: dict[str, Any] = {"library_name": "transformers" if told["auto"] else "nacre"}
    if told["auto"] and told["reads"] in tasks:
        front["pipeline_tag"] = tasks[told["reads"]]
    if HUB_ID.fullmatch(told["base"]):
        front["base_model"] = told["base"]
    if HUB_ID.fullmatch(source := str(result.data.get("source", "")).removeprefix("hf:")):
        front["datasets"] = [source]
    front["metrics"] = [run.score["name"]]
    front["tags"] = [
        "nacre",
        "continual-learning",
        *dict.fromkeys(methods_of(run)),
        *(["peft"] if told["adapters"] else []),
    ]
    lines = []
    for key, value in front.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {json.dumps(str(v))}" for v in value)]
        else:
            lines.append(f"{key}: {json.dumps(value)}")
    return "\n".join(["---", *lines, "---"])


def _summary(run: Run, told: Mapping[str, Any], result: Result) -> str:
    stream = result.data.get("stream", {})
    kind = str(stream.get("kind", "")) or "given"
    tasks = sum(1 for t in result.tests if t.get("learned"))
    by = ", ".join(dict.fromkeys(methods_of(run))) or "fine-tuning"
    source = _code(result.data.get("source", "unknown"))
    return (
        f"{_code(told['base'])} carried through {tasks} tasks of a {kind} stream of {source} by {by}. The run is "
        f"{run.status}{f': {run.error}' if run.error else ''}; it was begun at {run.started or 'an unknown time'}."
    )


def _how_to_load(told: Mapping[str, Any]) -> str:
    row = {"texts": '["a text"]', "pictures": "pictures", "numbers": "rows"}[told["reads"]]
    code = ["import nacre", "", 'model = nacre.load("FOLDER")  # this folder', f"model.predict({row})"]
    text = "## How to load it\n\nWith head, read-out and names of classes:\n\n" + _block(code)
    if told["auto"]:
        text += "\n\nThe backbone alone, without head and adapters:\n\n" + _block(
            ["from transformers import AutoModel", "", 'net = AutoModel.from_pretrained("FOLDER")']
        )
    if told["adapters"]:
        names = ", ".join(map(_code, told["adapters"]))
        text += f"\n\nWith one of its adapters ({names}):\n\n" + _block(
            ["from peft import PeftModel", "", f'net = PeftModel.from_pretrained(net, "FOLDER/{told["adapters"][0]}")']
        )
    return text


def _method(run: Run, told: Mapping[str, Any]) -> str:
    lines = ["## Method", ""]
    for number, stage in enumerate(run.stages):
        lines.append(f"Stage {number}, on {stage.get('when', 'every')} task:")
        lines.append("")
        for method in stage.get("methods", []) or [{"name": "fine-tuning"}]:
            settings = ", ".join(f"{k} = {_short(v)}" for k, v in method.items() if k != "name")
            lines.append(f"- {method['name']}{f': {settings}' if settings else ''}")
        if isinstance(optimizer := stage.get("optimizer"), dict):  # else nothing was trained
            lines.append(f"- optimizer: {', '.join(f'{k} = {_short(v)}' for k, v in optimizer.items())}")
            lines.append(
                f"- {', '.join(f'{k} = {_short(stage[k])}' for k in ('epochs', 'steps', 'batch_size') if k in stage)}"
            )
        lines.append("")
    for name, paper in run.papers.items():
        lines.append(f"{name} ({run.fidelity.get(name, 'unknown')}): {paper}.")
    answers = f"{told['method']} answers." if told["method"] else "The trained head answers."
    return "\n".join([*lines, *([""] if run.papers else []), answers]).rstrip()


def _data(result: Result) -> str:
    data = result.data
    if not data:
        return ""
    rows = data.get("rows", {})
    lines = [f"- source: {_code(data.get('source', 'unknown'))}, SHA-256 {_code(data.get('sha256', 'unknown'))}"]
    lines.append(f"- rows: {rows.get('train', '?')} for training, {rows.get('test', '?')} for testing")
    lines.append(f"- classes: {data.get('classes', '?')}")
    if data.get("note"):
        lines.append(f"- {data['note']}")
    lines += [f"- {key}: {_short(value)}" for key, value in data.get("stream", {}).items()]
    return "## Data\n\n" + "\n".join(lines)


def _figures(run: Run) -> str:
    names = list(next(iter(run.results.values())).summary) if run.results else []
    measured = [(name, run.figure(name)) for name in names]
    rows = [[name, percent(*figure), MEANING.get(name, "")] for name, figure in measured if not math.isnan(figure[0])]
    if not rows:
        return ""
    over = f" over the seeds {', '.join(map(str, run.seeds))}" if len(run.seeds) > 1 else ""
    return f"## Figures\n\n{run.score['name']} in percent{over}.\n\n" + _table(["figure", "value", "meaning"], rows)


def _matrix(run: Run, result: Result, seed: int) -> str:
    if not result.matrix:
        return ""
    down, across = _ends(len(result.moments)), _ends(len(result.tests))
    rows = [[result.moments[i], *(percent(result.matrix[i][j]) for j in across)] for i in down]
    left_out = len(result.moments) - len(down), len(result.tests) - len(across)
    note = f"\n\nLeft out here: {left_out[0]} rows, {left_out[1]} columns." if any(left_out) else ""
    head = ["after", *(result.tests[j]["name"] for j in across)]
    return f"## Matrix\n\nSeed {seed}: {run.score['name']} in percent after each task.\n\n{_table(head, rows)}{note}"


def _motion(result: Result, seed: int) -> str:
    rows = []
    for moment, moved in list(result.motion.items()):
        total = moved.get("total", {})
        rows.append(
            [moment, f"{100 * total.get('moved', math.nan):.2f}", f"{100 * total.get('relative', math.nan):.3f}"]
        )
    if not rows:
        return ""
    kept = [rows[i] for i in _ends(len(rows))]
    what = (
        "Share of all stored numbers that changed while a task was learned, and how far, by the length of the weights."
    )
    return f"## Motion\n\nSeed {seed}. {what}\n\n" + _table(["task", "moved %", "how far %"], kept)


def _limits(run: Run, result: Result, told: Mapping[str, Any]) -> str:
    lines = ["The figures are of the test rows of this stream, and say nothing of other data."]
    if run.status != "finished":
        lines.append(f"The run is {run.status}: the figures are of the part that was done.")
    if len(run.seeds) == 1:
        lines.append("One seed was run: there is no spread to judge differences by.")
    forgetting = (
        run.figure("forgetting")[0] if any("forgetting" in r.summary for r in run.results.values()) else math.nan
    )
    if forgetting > 0:
        lines.append(
            f"Forgetting is {percent(forgetting)} points: what was learned early is answered less well by as much."
        )
    stale = result.stale.get(result.moments[-1], []) if result.moments else []
    if stale:
        lines.append(
            f"{len(stale)} tasks are answered with statistics that were taken with other weights than the final ones."
        )
    if result.nonfinite:
        lines.append(f"NaN or infinity came up {len(result.nonfinite)} times in training.")
    rebuilt = [name for name, how in run.fidelity.items() if how == "inspired"]
    if rebuilt:
        lines.append(f"{', '.join(rebuilt)} is built after an idea and is not the published method as a whole.")
    if told["auto"]:
        lines.append(
            "`AutoModel` loads the backbone without the head: by itself it answers with features, not with classes."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _classes(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"## Classes\n\n{len(names)}: {', '.join(_code(n) for n in names[:SHOWN])}{more}."


def _made_with(run: Run) -> str:
    return (
        "## Made with\n\n" + ", ".join(f"{name} {version}" for name, version in run.versions.items())
        if run.versions
        else ""
    )


def _ends(count: int) -> list[int]:
    """All places, or of many the first and the last ones."""
    half = SHOWN // 2
    return list(range(count)) if count <= SHOWN else [*range(half), *range(count - half, count)]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[_cell(c) for c in row] for row in (head, *rows)]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _code(text: Any) -> str:
    return f"`{str(text).replace('`', chr(39)).replace(chr(10), ' ')}`"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-15:]}"


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
