"""Checks are checked: each rejects the broken parts that were made for it, and says what is wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from nacre.checks import EVERY, Case, called
from nacre.checks.mutants import MUTANTS
from nacre.cli.main import cli
from nacre.core.method import Method

KNOWN = {check.name: check for check in EVERY}
SLOW = {"compile": [pytest.mark.slow, pytest.mark.compile], "ranks": [pytest.mark.slow, pytest.mark.ranks]}
ELSEWHERE = {"import_is_silent": "a module that prints is made in a folder of the test below"}


def params():
    for name, make in MUTANTS:
        needs = KNOWN[name].needs
        marks = SLOW.get(needs, [pytest.mark.cuda] if needs == "cuda" else [])
        yield pytest.param(name, make, id=f"{getattr(make, '__name__', 'made')}-{name}", marks=marks)


@pytest.mark.parametrize(("name", "make"), list(params()))
def test_a_broken_part_is_rejected_in_a_sentence_with_part_expectation_figure_and_cause(name, make):
    check, part = KNOWN[name], make()
    assert check.applies(part), f"{name} does not look at {part!r}"
    kind = type(part)
    verdict = check.verdict(Case(part, origin=(f"{kind.__module__}:{kind.__qualname__}", 0)))
    if verdict.outcome == "skipped":
        pytest.skip(verdict.why)
    assert verdict.outcome == "failed", f"{name} lets {called(part)} pass"
    assert verdict.why.startswith(f"{called(part)} breaks {name}: ")
    assert ", but " in verdict.why and "The usual cause: " in verdict.why


def test_every_check_has_a_mutant():
    assert {name for name, _ in MUTANTS} | ELSEWHERE.keys() == KNOWN.keys()


NOISY = '''
from dataclasses import dataclass
from nacre import Method
{line}

@dataclass
class Noisy(Method):
    """Does nothing."""
'''


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('print("hello")', "prints 'hello"),
        ("import torch; torch.manual_seed(7)", "torch's seed"),
        ("import torch; torch.set_num_threads(torch.get_num_threads() + 1)", "number of threads"),
        ("import time; time.sleep(0.4)", "it takes"),
    ],
)
def test_a_module_that_does_something_when_imported_is_rejected(line, said, tmp_path, monkeypatch, capsys):
    name = f"noisy_{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(NOISY.format(line=line))
    monkeypatch.syspath_prepend(str(tmp_path))
    import torch

    threads, random = torch.get_num_threads(), torch.get_rng_state()
    part = importlib.import_module(name).Noisy()
    torch.set_num_threads(threads)
    torch.set_rng_state(random)
    verdict = KNOWN["import_is_silent"].verdict(part)
    assert verdict.outcome == "failed" and said in verdict.why


def test_an_unknown_excuse_is_rejected():
    class Excused(Method):
        """Is excused from what nobody asks."""

        excused = {"flies": "because it has no wings, and never had any"}  # noqa: RUF012

    verdict = KNOWN["excuses_are_needed"].verdict(Excused())
    assert verdict.outcome == "failed" and "'flies' is the name of a check" in verdict.why


def test_what_a_machine_lacks_is_skipped_and_what_is_excused_is_not_run_as_a_failure(monkeypatch):
    from nacre.checks import check as room
    from nacre.methods import EWC
    from nacre.rules import Rest

    monkeypatch.setattr(room, "lacks", lambda needs: "needs a GPU (cuda)" if needs == "cuda" else "")
    assert KNOWN["devices"].verdict(EWC()).outcome == "skipped"
    assert KNOWN["settings_are_plain"].verdict(Rest({})).outcome == "excused"


def nacre_check(*words: str) -> Result:
    return CliRunner().invoke(cli, ["check", *words])


def test_the_command_passes_a_users_method_and_fails_a_mutant_with_its_sentence():
    good = nacre_check("examples/own_method.py:L2SP", "--fast")
    assert good.exit_code == 0, good.output
    assert "resumes_exactly" in good.stdout and " passed" in good.stdout.splitlines()[-1]
    assert "cuda" in good.stdout.splitlines()[-1], "what the machine lacks is counted in the closing line"
    bad = nacre_check("nacre.checks.mutants:ZeroPenalty", "--only", "does_something")
    assert bad.exit_code == 1
    assert "ZeroPenalty() breaks does_something" in bad.stdout and "1 failed" in bad.stdout.splitlines()[-1]


def test_the_command_leaves_the_path_as_it_was(tmp_path):
    before = list(sys.path)
    (tmp_path / "statistics.py").write_text("")
    for words in (("examples/own_method.py:L2SP", "--only", "grows"), (f"{tmp_path}/statistics.py",), ("gone.mine:X",)):
        nacre_check(*words)
        assert sys.path == before, words


def test_the_command_names_what_it_does_not_know():
    for words, said in (
        (("EWD",), "did you mean 'EWC'"),
        (("EWC", "--only", "resume_exactly"), "did you mean 'resumes_exactly'"),
        (("nowhere.py",), "there is no file nowhere.py"),
        (("nacre.checks.mutants:Zero",), "did you mean 'ZeroPenalty'"),
        (("json:JSONDecoder",), "JSONDecoder is no method"),
    ):
        found = nacre_check(*words)
        assert found.exit_code == 2 and said in found.stderr, found.stderr


def test_checks_run_in_anybodys_pytest(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "from nacre.checks import parametrize_with_checks\n"
        "from nacre.checks.mutants import DeafSeed\n"
        "from nacre.memory import Reservoir\n"
        "@parametrize_with_checks([Reservoir, DeafSeed()], only=['bounded', 'seeded', 'devices'])\n"
        "def test_mine(case, check):\n"
        "    check(case)\n"
    )
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert "1 failed, 1 passed, 1 skipped" in done.stdout, done.stdout[-800:]
