"""What rules that control moves are refused."""

from __future__ import annotations

import torch

from nacre.core.errors import BadSetting
from nacre.rules import Anchor, Drop, Project, Scale, project
from tests.errors.row import ANY, Place, Row
from tests.errors.rows_learner import line, stepped


def in_parts(at: Place) -> None:
    at.patch.setattr(project, "is_sharded", lambda t: True)
    stepped(Project(right={"weight": torch.eye(3)[:, :1]}), *line())


MOVES: list[Row] = [
    Row(
        "a match that is no regular expression",
        BadSetting,
        f"'(' is no regular expression: {ANY}; a name or a part of it is one",
        lambda at: stepped(Scale("(", 0.5), *line()),
    ),
    Row(
        "rescaled moves of which none is left",
        BadSetting,
        "Drop.share is 1, so that nothing moves and nothing can be rescaled: take a share below 1",
        lambda at: Drop(1.0, rescale=True),
    ),
    Row(
        "an anchor for what the model does not have",
        BadSetting,
        "Anchor.reference names 'head', which the model does not have: it has bias, weight",
        lambda at: stepped(Anchor(reference={"head": torch.zeros(1)}), *line()),
    ),
    Row(
        "an anchor of another shape",
        BadSetting,
        "Anchor.reference of weight has the shape (1, 2), the parameter (1, 3): only rows may be missing",
        lambda at: stepped(Anchor(reference={"weight": torch.zeros(1, 2)}), *line()),
    ),
    Row(
        "a decoupled pull beyond its anchor",
        BadSetting,
        "Anchor pulls by learning rate * strength * importance = 3, and a decoupled pull moves away from its anchor from 2 on: "
        'lower the strength, or take form="implicit"',
        lambda at: stepped(Anchor(30.0, "decoupled"), *line()),
    ),
    Row(
        "a projection of what the model does not have",
        BadSetting,
        "Project names 'head', which the model does not have: it has bias, weight",
        lambda at: stepped(Project(left={"head": torch.eye(3)}), *line()),
    ),
    Row(
        "a projection of weights in parts",
        BadSetting,
        "Project multiplies whole weights by bases, and each rank holds a part of weight: train without fully_shard",
        in_parts,
    ),
    Row(
        "a basis of another shape",
        BadSetting,
        "Project.right of weight has the shape (2, 2), the weight counts as (1, 3): give (in, k)",
        lambda at: stepped(Project(right={"weight": torch.eye(2)}), *line()),
    ),
    Row(
        "a basis whose columns are not orthonormal",
        BadSetting,
        "Project.right of weight has columns that are not orthonormal: off by 9 in all; take the Q of torch.linalg.qr of it",
        lambda at: stepped(Project(right={"weight": 2 * torch.eye(3)}), *line()),
    ),
    Row(
        "a gradient of another shape",
        BadSetting,
        "Project.against of weight has the shape (3,), the parameter (1, 3): give a gradient of it",
        lambda at: stepped(Project(against={"weight": torch.ones(3)}), *line()),
    ),
]
