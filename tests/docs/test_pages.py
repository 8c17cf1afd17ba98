"""The pages say what is true: every block of code on them runs, in order, in a folder of the page's own.

`python` blocks of a page share one namespace. `console` blocks run their `nacre` commands. `toml` blocks are configs; one
that begins with the comment `# NAME.toml` lies in the folder under that name. `<!-- not run: why -->` before a block is the
only way out.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from nacre.catalogue import entries
from nacre.experiment import Config

ROOT = Path(__file__).parents[2]
WRITTEN = sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in ("errors.md", "design.md"))
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
MADE = runpy.run_path(str(ROOT / "scripts/site_pages.py"))["pages"]()
PAGES = {f"docs/{p.name}": p.read_text(encoding="utf-8") for p in WRITTEN} | MADE
EXITS = (0, 3)  # done; nothing left to do


def blocks(text: str) -> list[tuple[str, str]]:
    """Kind and code of each block that is to be run."""
    return [(found["kind"], found["code"]) for found in BLOCK.finditer(text) if not found["why"]]


def run_command(line: str) -> None:
    from nacre.cli.main import cli

    words = shlex.split(line, comments=True)
    assert words[0] == "nacre", f"only nacre is run here: {line}"
    done = CliRunner().invoke(cli, words[1:])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in EXITS, f"{line}: exit {done.exit_code}\n{done.output}"


def run_toml(code: str) -> None:
    if name := re.match(r"# ([\w-]+\.toml)\n", code):
        Path(name[1]).write_text(code)
    if re.search(r"^\[\[stage\]\]", code, re.MULTILINE) is None:
        code += "\n[[stage]]\n"
    Path("block.toml").write_text(code)
    Config.load("block.toml")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # Lightning goes on with one
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    space: dict[str, object] = {"__name__": "page"}
    with torch.random.fork_rng():
        for number, (kind, code) in enumerate(blocks(PAGES[page])):
            if kind == "python":
                exec(compile(code, f"{page}, block {number}", "exec"), space)
            elif kind == "toml":
                run_toml(code)
            elif kind == "console":
                for line in re.findall(r"^\$ (.*)", code, re.MULTILINE):
                    run_command(line)
            else:
                pytest.fail(f"{page} has a block of {kind!r}: python, toml and console are run")


def test_a_block_that_fails_is_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (_, code), *others = blocks(
        "```python\nassert False\n```\n<!-- not run: it would fail -->\n```python\n1 / 0\n```\n"
    )
    assert not others
    with pytest.raises(AssertionError):
        exec(code, {})
    with pytest.raises(AssertionError, match="exit 2"):
        run_command("nacre run no-such.toml")


def test_each_method_has_a_page_with_its_formula_settings_and_source():
    for entry in entries("method"):
        page = MADE[f"methods/{entry.name}.md"]
        assert entry.text.splitlines()[0] in page
        assert all(f"| `{s.name}` |" in page for s in entry.settings)
        assert entry.paper is not None and entry.paper.title in page and f"`{entry.fidelity}`" in page
        assert f'method="{entry.name}"' in page


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    home = (tmp_path / "site/index.html").read_text()
    assert (tmp_path / "site/methods/EWC.html").is_file()
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', home), "a page asks another host"
