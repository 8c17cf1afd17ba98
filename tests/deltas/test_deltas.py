"""Deltas give the tuned model bit for bit, know their base, and merge as their formulas say."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from nacre.core import tensor_file
from nacre.core.bits import bits
from nacre.core.errors import BadData
from nacre.deltas import HOWS, Delta, applied, apply, merge, save, saving, weights_of

NAN = float("nan")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and one[n].shape == other[n].shape and torch.equal(bits(one[n]), bits(other[n]))
        for n in one
    )


def model() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    floats = {
        str(dtype).split(".")[1]: torch.randn(7, 5, generator=draw).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    }
    return floats | {
        "count": torch.tensor(3),
        "mask": torch.zeros(9, dtype=torch.bool),
        "bytes": torch.arange(20, dtype=torch.uint8),
        "odd": torch.tensor([0.0, NAN, 1.0, -0.0]),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "empty": torch.zeros(0, 4),
        "head": torch.randn(2, 3, generator=draw),
        "recast": torch.ones(3),
        "lost": torch.ones(2),
        "still": torch.ones(4, 4),
    }


def tuned() -> dict[str, torch.Tensor]:
    now = {n: t.clone() for n, t in model().items() if n != "lost"}
    for t in (t for n, t in now.items() if n.startswith(("float", "bfloat")) and "8" not in n):
        t[2, 3] += 1
        t[0, 0] = NAN
    now["float8_e4m3fn"].view(torch.uint8)[1, 1] ^= 1
    now["count"] += 1
    now["mask"][4] = True
    now["bytes"][7] = 255
    now["odd"] = torch.tensor([-0.0, NAN, 1.0, 0.0])
    now["odd"].view(torch.int32)[1] ^= 1  # another NaN
    now["complex"][1] = 1j
    now["head"] = torch.cat([now["head"], torch.ones(1, 3)])
    now["recast"] = now["recast"].double()
    now["new"] = torch.tensor([[5]], dtype=torch.int16)
    return now


def test_base_and_delta_are_the_tuned_model_bit_for_bit(tmp_path):
    save_file(model(), tmp_path / "base.safetensors")
    save_file(tuned(), tmp_path / "new.safetensors")
    delta = save(tmp_path / "base.safetensors", tmp_path / "new.safetensors", tmp_path / "d.safetensors")
    assert same(load_file(apply(tmp_path / "base.safetensors", delta.path, tmp_path / "out.safetensors")), tuned())
    assert same(applied(model(), delta), tuned())
    assert not list(tmp_path.glob("*.new"))


def test_only_entries_whose_bits_differ_are_held(tmp_path):
    delta = save(model(), tuned(), tmp_path / "d.safetensors")
    held = load_file(delta.path)
    assert held["index:float32"].dtype == torch.int32
    assert held["index:float32"].tolist() == [0, 13] and held["value:float32"].dtype == torch.float32
    assert "still" not in delta.changes and "empty" not in delta.changes
    forms = {n: c.form for n, c in delta.changes.items()}
    assert {forms[n] for n in ("head", "recast", "new")} == {"whole"} and forms["lost"] == "gone"
    moved = {n: c.moved for n, c in delta.changes.items()}
    assert moved["odd"] == 3  # 0.0 -> -0.0, one NaN -> another, -0.0 -> 0.0
    assert delta.changes["float64"].moved == 2 and delta.total()["moved"] == sum(moved.values())
    one = save(
        {"w": torch.zeros(100)},
        {"w": torch.zeros(100).index_fill(0, torch.tensor([5]), 3.0)},
        tmp_path / "e.safetensors",
    )
    assert one.changes["w"].distance == 3.0 and one.total()["share"] == 0.01


def test_what_mostly_moved_is_held_whole_and_is_no_larger(tmp_path):
    base, new = {"w": torch.zeros(64, 64)}, {"w": torch.ones(64, 64)}
    delta = save(base, new, tmp_path / "d.safetensors")
    assert delta.changes["w"].form == "whole" and delta.changes["w"].moved == 64 * 64
    assert same(applied(base, delta), new)


def test_nothing_moved_is_a_delta_too(tmp_path):
    delta = save(model(), model(), tmp_path / "d.safetensors")
    assert not delta.changes and same(applied(model(), delta), model())


def test_another_base_is_refused_and_nothing_is_written(tmp_path):
    delta = save(model(), tuned(), tmp_path / "d.safetensors")
    for name in ("still", "lost", "float32"):
        other = model()
        other[name].view(torch.uint8).view(-1)[0] ^= 1
        with pytest.raises(BadData, match=f"another base: {name}"):
            apply(other, delta, tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.safetensors"]


def test_an_altered_delta_is_refused(tmp_path):
    delta = save(model(), tuned(), tmp_path / "d.safetensors")
    raw = bytearray(delta.path.read_bytes())
    raw[-1] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(raw)
    with pytest.raises(BadData, match="was altered"):
        applied(model(), tmp_path / "altered.safetensors")


def test_tensors_are_read_one_at_a_time(tmp_path, monkeypatch):
    base = {f"w{i}": torch.zeros(50, 50) for i in range(8)}
    new = {n: t.clone().index_fill_(0, torch.tensor([1]), 1.0) for n, t in base.items()}
    for name, held in {"base": base, "new": new}.items():
        save_file(held, tmp_path / f"{name}.safetensors")
    delta = save(tmp_path / "base.safetensors", tmp_path / "new.safetensors", tmp_path / "d.safetensors")
    asked: list[str] = []
    weights = weights_of(tmp_path / "base.safetensors")
    read = weights.read
    monkeypatch.setattr(weights, "read", lambda n: (asked.append(n), read(n))[1])
    apply(weights, delta, tmp_path / "out.safetensors")
    assert sorted(asked) == sorted(base)  # each once


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path, monkeypatch):
    delta = save(model(), tuned(), tmp_path / "d.safetensors")
    before = delta.path.read_bytes()

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "write_stream", broken)
    with pytest.raises(KeyboardInterrupt):
        save(model(), model(), tmp_path / "d.safetensors")
    assert delta.path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_sharded_folders_and_runs_are_models(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "model-1.safetensors")
    save_file({"b": torch.ones(3)}, folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(dict(weights_of(folder)), {"a": torch.ones(2), "b": torch.ones(3)})


def test_a_run_is_a_model(tmp_path):
    import nacre

    for seed in (0, 1):
        nacre.fit("digits", backbone="mlp:64-8", epochs=1, out=tmp_path / str(seed), seeds=seed)
    one, two = (nacre.load(tmp_path / str(seed)).model.state_dict() for seed in (0, 1))
    assert same(dict(weights_of(tmp_path / "0")), dict(one))
    delta = save(tmp_path / "0", tmp_path / "1", tmp_path / "d.safetensors")
    assert same(applied(tmp_path / "0", delta), dict(two))


# ---------------------------------------------------------------------------------------------------- merging


def three(tmp_path) -> tuple[dict, list[Delta]]:
    """A base and three deltas: moves by hand."""
    base = {"w": torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0] + [0.0] * 20)}
    moves = [[4, 0, -1, 2, 0, 0], [2, 3, 2, -2.5, 0, 0], [0, 0, 3, 0, 0, -8]]
    deltas = []
    for t, move in enumerate(moves):
        new = {"w": base["w"] + torch.tensor([*map(float, move), *[0.0] * 20])}
        deltas.append(save(base, new, tmp_path / f"{t}.safetensors"))
    return base, deltas


@pytest.mark.parametrize(
    ("how", "more", "expected"),
    [
        ("sum", {}, [6, 3, 4, -0.5, 0, -8]),
        ("mean", {}, [2, 1, 4 / 3, -0.5 / 3, 0, -8 / 3]),
        ("max", {}, [4, 3, 3, -2.5, 0, -8]),
        ("arithmetic", {"weights": [1, 2, -1]}, [8, 6, 0, -3, 0, 8]),
        ("arithmetic", {"scale": 0.5}, [3, 1.5, 2, -0.25, 0, -4]),
        ("ties", {"share": 1.0}, [3, 3, 2.5, -2.5, 0, -8]),  # by hand: mean of those of the elected sign
        ("ties", {"share": 0.5}, [4, 3, 0, -2.5, 0, -8]),  # kept: 4, 2 | 3, -2.5 | -8; of 2 and -2.5 the latter
    ],
)
def test_merging_by_hand(how, more, expected, tmp_path):
    base, deltas = three(tmp_path)
    got = applied(base, merge(base, deltas, tmp_path / "m.safetensors", how, **more))["w"]
    torch.testing.assert_close(got[:6] - base["w"][:6], torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(got[6:], base["w"][6:])


@pytest.mark.parametrize("how", HOWS)
def test_order_does_not_matter(how, tmp_path):
    draw = torch.Generator().manual_seed(1)
    base = {"w": torch.randn(40, 30, generator=draw), "b": torch.randn(9, generator=draw).bfloat16()}
    deltas = []
    for t in range(4):
        new = {n: torch.where(torch.rand(v.shape, generator=draw) < 0.4, v * 1.1 + 0.1, v) for n, v in base.items()}
        deltas.append(save(base, new, tmp_path / f"{t}.safetensors"))
    one = applied(base, merge(base, deltas, tmp_path / "m.safetensors", how))
    other = applied(base, merge(base, deltas[::-1], tmp_path / "n.safetensors", how))
    assert same(one, other) and not same(one, base)


@pytest.mark.parametrize("how", ["sum", "max"])
def test_deltas_that_share_no_entry_merge_exactly(how, tmp_path):
    draw = torch.Generator().manual_seed(2)
    base = {"w": torch.randn(60, 30, generator=draw) * 1e6, "n": torch.tensor(4), "flag": torch.tensor([False, True])}
    whose = torch.randint(0, 3, (60, 30), generator=draw)
    goal = {"w": torch.randn(60, 30, generator=draw) * 1e-6, "n": torch.tensor(9), "flag": torch.tensor([True, True])}
    deltas = []
    for t in range(3):
        new = {**base, "w": torch.where(whose == t, goal["w"], base["w"])} | (
            {"n": goal["n"]} if t else {"flag": goal["flag"]}
        )
        deltas.append(save(base, new, tmp_path / f"{t}.safetensors"))
    assert same(applied(base, merge(base, deltas, tmp_path / "m.safetensors", how)), goal)


def test_a_merge_of_one_is_that_delta(tmp_path):
    delta = save(model(), tuned(), tmp_path / "d.safetensors")
    for how in ("sum", "mean", "max", "arithmetic"):
        assert same(applied(model(), merge(model(), [delta], tmp_path / "m.safetensors", how)), tuned())


# ---------------------------------------------------------------------------------------------------- the command


def test_the_commands(tmp_path, monkeypatch):
    from nacre.cli.main import cli

    monkeypatch.chdir(tmp_path)
    save_file(model(), "base.safetensors")
    save_file(tuned(), "new.safetensors")

    def nacre(words: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["delta", *words.split()])
        assert done.exit_code == code, done.output
        return done.output

    assert "entries moved" in nacre("save base.safetensors new.safetensors d.safetensors")
    nacre("apply base.safetensors d.safetensors out.safetensors")
    assert same(load_file("out.safetensors"), tuned())
    nacre("merge base.safetensors d.safetensors --how mean m.safetensors")
    told = json.loads(nacre("info d.safetensors --json"))
    assert told["total"]["tensors"] == len(tuned())
    assert {row["name"]: row["moved"] for row in told["tensors"]}["still"] == 0
    assert "float32" in nacre("info d.safetensors") and "gone" in nacre("info d.safetensors")
    nacre("apply new.safetensors d.safetensors other.safetensors", code=1)
    nacre("merge base.safetensors d.safetensors --weights 1,2 m.safetensors", code=2)


def test_files_of_before_are_written_as_before(tmp_path):
    tensors = {"half": torch.ones(3, dtype=torch.bfloat16), "one": torch.tensor(3), "flag": torch.tensor([True])}
    tensor_file.write_tensors(tensors, tmp_path / "t.safetensors")
    assert same(load_file(tmp_path / "t.safetensors"), tensors)
