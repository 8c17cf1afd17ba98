"""Draw `docs/pictures/loop.svg`: one step and one stage, with their hooks: `python scripts/draw_loop.py`.

Its colours follow the reader's light or dark scheme.
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "docs" / "pictures" / "loop.svg"
WIDE, TALL, GAP, LEFT = 132, 44, 12, 20
PER_ROW = 5
STYLE = """
 text { font: 13px system-ui, sans-serif; fill: #1f2933; text-anchor: middle }
 .small { font-size: 11px; fill: #52606d } .name { font-weight: 600; text-anchor: start; font-size: 15px }
 rect { stroke: #7b8794; fill: #f5f7fa; rx: 8px } .hook rect { stroke: #00796b; fill: #e0f2f1 }
 .hook text { font-family: ui-monospace, monospace; font-size: 12.5px } path { stroke: #7b8794; fill: none; stroke-width: 1.5 }
 @media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb } .small { fill: #9aa5b1 } rect { fill: #1f2933; stroke: #7b8794 }
  .hook rect { fill: #06332f; stroke: #4db6ac }
 }
"""
STAGE = [
    ("head grows", "", False),
    ("prepare", "modules, what trains", True),
    ("meet", "before it is learned", True),
    ("begin_stage", "read the task", True),
    ("shape_rows", "which rows", True),
    ("optimizer is made", "", False),
    ("steps", "below", False),
    ("end_stage", "what to remember", True),
    ("predict", "at most one answers", True),
]
STEP = [
    ("take raw rows", "", False),
    ("shape_batch", "add replayed rows", True),
    ("augment", "", False),
    ("offset", "where to look", True),
    ("forward", "once, for all", False),
    ("shape_logits", "who competes", True),
    ("objective + loss", "sum of terms", True),
    ("backward", "", False),
    ("shape_grads", "before the optimizer", True),
    ("optimizer.step", "", False),
    ("shape_weights", "the step taken", True),
    ("resting", "has the last word", True),
    ("after_step", "admit, count", True),
]


def row_of(title: str, boxes: list[tuple[str, str, bool]], top: int) -> tuple[list[str], int]:
    """A chain of boxes, some to a line; where the next may begin."""
    parts = [f'<text class="name" x="{LEFT}" y="{top}">{title}</text>']
    top += 14
    for k, (name, note, hook) in enumerate(boxes):
        x = LEFT + (k % PER_ROW) * (WIDE + GAP + 10)
        y = top + (k // PER_ROW) * (TALL + GAP)
        middle, kind = x + WIDE / 2, ' class="hook"' if hook else ""
        label = f'<text x="{middle}" y="{y + (19 if note else 27)}">{name}</text>'
        small = f'<text class="small" x="{middle}" y="{y + 35}">{note}</text>' if note else ""
        parts.append(f'<g{kind}><rect x="{x}" y="{y}" width="{WIDE}" height="{TALL}"/>{label}</g>{small}')
        if k % PER_ROW and k:
            parts.append(f'<path d="M{x - GAP - 8} {y + TALL / 2} h{GAP + 4} m-4 -4 l4 4 l-4 4"/>')
    return parts, top + -(-len(boxes) // PER_ROW) * (TALL + GAP) + 26


def main() -> None:
    """Write the picture."""
    stage, top = row_of("One stage on one task", STAGE, 26)
    step, end = row_of("One step", STEP, top)
    wide = 2 * LEFT + PER_ROW * (WIDE + GAP + 10) - GAP - 10
    note = f'<text class="small" style="text-anchor: start" x="{LEFT}" y="{end - 12}">Green: hooks of methods and rules.</text>'
    OUT.parent.mkdir(exist_ok=True)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {end}" role="img" aria-label="The loop and its hooks">'
    OUT.write_text("\n".join([head, f"<style>{STYLE}</style>", *stage, *step, note, "</svg>", ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
