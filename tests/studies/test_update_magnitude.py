"""The study of update magnitudes: closed forms against their recursions and small simulations, and the command."""

from __future__ import annotations

import json
from itertools import combinations

import pytest
import torch
from click.testing import CliRunner

from nacre import studies
from nacre.cli.main import cli
from nacre.core.dice import dice
from nacre.core.errors import BadSetting
from nacre.studies import Claim, LinearTasks, Study, crossovers, simulate, update_magnitude
from nacre.studies.linear_tasks import mean_and_error
from nacre.studies.retaining import anew, from_gradient, going_on, oracle
from nacre.studies.supports import Supports

SETTINGS = [
    LinearTasks(),
    LinearTasks(far=0.2, noise=0.7),
    LinearTasks(far=1.9, rows=60),
    LinearTasks(width=50, rows=30, tasks=3, far=0.8, norm=2.0, noise=1.0),
    LinearTasks(width=80, rows=8, tasks=5, far=2.4),
    LinearTasks(width=30, rows=4, tasks=2, far=3.9),
]


def by_recursion(tasks: LinearTasks, alpha: float) -> tuple[float, float]:
    """Expected forgetting and risk, moment by moment: A_t = E|w_t|^2, B_ti = E<w_t, w*_i>."""
    want, r = tasks.targets(), tasks.left
    size, reach, right_after = 0.0, [0.0] * tasks.tasks, []
    for t in range(tasks.tasks):
        reach = [r * alpha * b + (1 - r) * float(want[t] @ want[i]) for i, b in enumerate(reach)]
        size = r * alpha**2 * size + (1 - r) * tasks.norm + tasks.extra
        right_after.append(size - 2 * reach[t] + tasks.norm)
    risks = [size - 2 * b + tasks.norm for b in reach]
    lost = [now - then for now, then in zip(risks, right_after, strict=True)]
    return sum(lost[:-1]) / (tasks.tasks - 1), sum(risks) / tasks.tasks


@pytest.mark.parametrize("tasks", SETTINGS, ids=range(6))
def test_closed_forms_are_what_the_recursions_give(tasks):
    assert tasks.initialised() == pytest.approx(by_recursion(tasks, 0.0), abs=1e-12)
    assert tasks.frozen() == pytest.approx(by_recursion(tasks, 1.0), abs=1e-12)


def test_targets_have_the_norm_and_the_distances_that_were_asked_for():
    for tasks in SETTINGS:
        want = tasks.targets()
        assert want.shape == (tasks.tasks, tasks.width)
        assert torch.allclose(want.square().sum(1), torch.full((tasks.tasks,), tasks.norm).double())
        for a, b in combinations(want, 2):
            assert (a - b).square().sum().item() == pytest.approx(tasks.far, abs=1e-9)


@pytest.mark.parametrize("k", [0, 1, 3, 4])
def test_they_agree_with_a_small_simulation_within_three_standard_errors(k):
    for retain, says in ((anew, SETTINGS[k].initialised()), (going_on, SETTINGS[k].frozen())):
        run = simulate(SETTINGS[k], retain, 60, seed=k)
        for figures, expected in zip((run.forgetting, run.risk), says, strict=True):
            mean, error = mean_and_error(figures)
            assert abs(mean - expected) < 3 * error, (mean, expected, error)


def test_the_extremes_cross_where_the_formula_says():
    forgetting, risk = crossovers(0.9, 10)
    assert (round(forgetting, 3), round(risk, 3)) == (1.302, 1.111)
    for what, at in ((0, forgetting), (1, risk)):
        below, above = (LinearTasks(far=s * at) for s in (0.999, 1.001))
        assert below.frozen()[what] < below.initialised()[what] and above.frozen()[what] > above.initialised()[what]
    for r, tasks, norm in ((0.9, 6, 1.0), (0.8, 7, 3.0)):
        world = LinearTasks(width=100, rows=round(100 * (1 - r)), tasks=tasks, norm=norm)
        for what, at in enumerate(crossovers(r, tasks, norm)):
            here = LinearTasks(world.width, world.rows, tasks, at, norm)
            assert here.frozen()[what] == pytest.approx(here.initialised()[what])
    loud = LinearTasks(noise=1.2)
    assert crossovers(0.9, 10, extra=loud.extra)[1] < 0, "noise: beginning anew generalises better at every distance"
    assert crossovers(0.9, 2)[0] == float("inf"), "two tasks: going on always forgets less"


def test_the_best_alpha_is_better_than_both_extremes_and_each_half_better_with_its_own():
    tasks = LinearTasks(width=100, rows=10)
    targets = torch.cat([LinearTasks(far=d, norm=0.5).targets(50) for d in (0.05, 0.95)], 1)
    ways = {"anew": anew, "on": going_on, "one": oracle(), "two": oracle(2), "gradient": from_gradient(2)}
    risk = {n: simulate(tasks, way, 60, 0, targets).risk.mean().item() for n, way in ways.items()}
    assert risk["two"] < risk["one"] < min(risk["anew"], risk["on"]) and risk["gradient"] < min(
        risk["anew"], risk["on"]
    )


def test_where_supports_differ_the_drift_and_its_least_alpha_follow_the_formula():
    world = Supports(width=40, one=28, two=26, rows=6)
    first, old, new = (torch.randn(40, generator=dice("s", k), dtype=torch.float64) for k in range(3))
    first = old + 0.3 * first
    first[28:] = 0
    for alpha in (0.0, 0.6, 1.0):
        mean, error = mean_and_error(world.simulated(alpha, first, old, new, 3000))
        assert abs(mean - world.drift(alpha, first, old, new)) < 3 * error
    best = world.best(first, old, new)
    drifts = [world.drift(best + far, first, old, new) for far in (-1e-3, 0.0, 1e-3)]
    assert drifts[1] == min(drifts)
    same = Supports(width=26, one=26, two=26, rows=6)
    r, b, k1 = same.moments()
    assert k1 + 26 * b == pytest.approx(r), "where both see the same, the unified case comes back"


def test_settings_that_do_not_exist_are_refused():
    for wrong, said in (
        ({"far": 2.3}, "at most 2.222 apart"),
        ({"rows": 199}, "fewer rows"),
        ({"tasks": 1}, "two tasks"),
    ):
        with pytest.raises(BadSetting, match=said):
            LinearTasks(**wrong)


def test_the_study_has_a_verdict_per_claim_and_a_plot(tmp_path):
    study = update_magnitude(repeats=12, distances=(1.3,))
    assert len({c.name for c in study.claims}) == len(study.claims) == 13
    by_name = {c.name: c for c in study.claims}
    assert not [c.name for c in study.claims if not c.holds]
    assert by_name["risk crosses"].figures["simulated d^2"] == pytest.approx(1.111, abs=0.1)
    json.dumps(study.to_dict())
    study.draw(study, tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_the_command_tells_verdicts_and_its_exit_code_says_whether_all_hold(tmp_path, monkeypatch):
    def made(holds: bool):
        return lambda repeats, seed: Study("s", "about", [Claim("c", "it is so", {"x": 0.5}, holds)])

    for holds in (True, False):
        monkeypatch.setitem(studies.STUDIES, "update-magnitude", made(holds))
        done = CliRunner().invoke(cli, ["study", "--repeats", "3", "--out", str(tmp_path / "o")])
        assert done.exit_code == (0 if holds else 1), done.output
        assert ("holds  c: it is so" if holds else "FAILS  c: it is so") in done.output
        assert json.loads((tmp_path / "o" / "update-magnitude.json").read_text())["holds"] is holds
    lost = CliRunner().invoke(cli, ["study", "update-magnitud"])
    assert lost.exit_code == 2 and "did you mean 'update-magnitude'" in lost.stderr
