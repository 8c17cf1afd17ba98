"""A row of docs/errors.md: what is refused, with which error and message, and what provokes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ANY = "…"
"""In a message: whatever stands there, such as words of another package or a list that grows."""


class Place:
    """A folder of one row, in which it may write, patch and run commands.

    Args:
        folder: Where files go; messages call it PATH.
        patch: Undone after the row.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.patch = folder, patch

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, content: bytes | str) -> Path:
        """Write a file, and the folders above it; its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def command(self, *words: object) -> None:
        """Run `nacre`; what it says instead of working is raised."""
        from nacre.cli.main import cli

        done = CliRunner().invoke(cli, [str(word) for word in words])
        if done.exit_code:
            raise Told(done.exit_code, done.stderr.strip().splitlines()[-1].removeprefix("error: ")) from done.exception


class Told(Exception):
    """What a command said, and the exit code that it left with."""

    def __init__(self, code: int, said: str):
        super().__init__(said)
        self.code = code


@dataclass(frozen=True)
class Row:
    """Something that is refused.

    Attributes:
        what: In a few words, as the page shows it.
        error: The type of the error; a number is the exit code of a command.
        message: The whole message, where `PATH` is the folder and `…` anything.
        provoke: Does it.
    """

    what: str
    error: type[Exception] | int
    message: str
    provoke: Callable[[Place], Any]

    @property
    def called(self) -> str:
        """The error as the page shows it."""
        return f"exit code {self.error}" if isinstance(self.error, int) else self.error.__name__

    def fits(self, error: Exception, folder: Path) -> str:
        """What is wrong with an error that came; empty where it is the right one."""
        kind = error.code if isinstance(error, Told) else type(error)
        if kind != self.error:
            return f"{self.called} was to come, {type(error).__name__} came: {error}"
        said = str(error).replace(str(folder.resolve()), "PATH").replace(str(folder), "PATH")
        pattern = ".*?".join(map(re.escape, self.message.split(ANY)))
        return "" if re.fullmatch(pattern, said, re.DOTALL) else f"said:\n{said}\nand was to say:\n{self.message}"


def page(sections: dict[str, list[Row]]) -> str:
    """All rows as tables of markdown, one for each section."""
    lines: list[str] = []
    for title, rows in sections.items():
        lines += [f"### {title}", "", "| refused | error | message |", "|---|---|---|"]
        lines += [f"| {_cell(row.what)} | `{row.called}` | {_code(row.message)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    """A message as code, whatever is in it."""
    plain = text.replace("\n", " ").replace("|", "\\|")
    return f"`` {plain} ``" if "`" in plain else f"`{plain}`"
