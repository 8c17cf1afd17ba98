"""Adapters: the backbone keeps its bits, tasks keep their answers, and folders are PEFT's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from worlds import Net, stream

import nacre
from nacre.adapters import (
    adapters_in,
    answering_with,
    decomposed,
    describe,
    effective,
    load_adapters,
    merged,
    put_in,
    put_in_osf,
    rebuild,
    save_adapters,
    targets_in,
    unwrapped,
)
from nacre.adapters.layers import adapted, config_of, train_only
from nacre.backbones import Classifier, backbone
from nacre.checks.worlds import TEXT
from nacre.core.errors import BadUse
from nacre.core.method import compose
from nacre.core.model import fingerprint
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Stage
from nacre.methods import ER, EWC, OSFT, TaskAdapters
from tests.texts import small

ADAMW = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.1})


def learned(method: Any, model: nn.Module, met: Any, after: Any = lambda learner, index: None) -> Learner:
    who = Learner(model, (Stage(method, ADAMW, epochs=3, batch_size=10),), seed=1)
    for one in who.learn(met):
        after(who, one.task.index)
    return who


def base_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What is no adapter and no head, by the names from before; buffers too."""
    named = {n.replace(".base_layer", ""): t for n, t in model.state_dict().items()}
    return {
        n: t.clone()
        for n, t in named.items()
        if not n.startswith("head") and not any(word in n for word in (".lora_", ".ia3_"))
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("heads", [False, True])
def test_what_a_task_answers_told_its_id_stays_the_same_bit_for_bit(kind: Any, heads: bool):
    met, net, answers, adapters = stream(told=True), Net(heads=heads), {}, {}
    before = base_of(net)
    asked = [one.tests[f"task{i}"].take(torch.arange(12)) for i, one in enumerate(met)]

    def look(who: Learner, index: int) -> None:
        assert same(before, base_of(net))
        for i in range(index + 1):
            now = who.predict(asked[i])[:, : 2 * i + 2]
            assert torch.equal(answers.setdefault(i, now), now)
        for n, p in net.named_parameters():
            if f"task{index}" in n:
                adapters[n] = p.detach().clone()

    who = learned(TaskAdapters(kind=kind, rank=3), net, met, look)
    assert len(adapters) == 3 * 2 * (2 if kind == "lora" else 1)
    assert all(torch.equal(dict(net.named_parameters())[n], t) for n, t in adapters.items())  # earlier ones rest
    right = [float((who.predict(b).argmax(1) == b.y).float().mean()) for b in asked]
    assert sum(right) / 3 > 0.7
    assert not torch.equal(answers[0], net(asked[0].x).logits[:, :2])  # the last adapter answers otherwise


def test_tasks_that_share_all_classes_keep_their_answers_too():
    met = stream(told=True, splits=((0, 1), (0, 1)))
    asked, first = met[0].tests["task0"].take(torch.arange(10)), []
    who = learned(TaskAdapters(rank=2), Net(), met, lambda who, index: first.append(who.predict(asked)))
    assert torch.equal(first[0], first[1])
    kept: Any = who.stages[0].method
    assert not torch.equal(kept.heads[0]["head.weight"], kept.heads[1]["head.weight"])  # the rows did move


def test_a_task_that_is_hidden_is_chosen_by_the_nearest_class_mean_without_adapters():
    met, net = stream(), Net()
    bare_net = Net()
    who = learned(TaskAdapters(rank=3), net, met)
    method: Any = who.stages[0].method
    x = torch.cat([one.tests[f"task{i}"].take(torch.arange(20)).x for i, one in enumerate(met)])
    batch = Batch(x, torch.zeros(len(x), dtype=torch.long))
    bare_net.eval()
    with torch.no_grad():
        means = {}
        for i, one in enumerate(met):
            rows = one.task.train.take(torch.arange(len(one.task.train)))
            z = bare_net.body(rows.x)
            means |= {(i, c): z[rows.y == c].mean(0) for c in one.task.classes}
        z = bare_net.body(x)
        near = torch.stack([torch.cosine_similarity(z, m[None]) for m in means.values()], 1).argmax(1)
    twin = torch.tensor([task for task, _ in means])[near]
    with who.reading():
        assert torch.equal(method._which(net, batch), twin)
        assert torch.equal(who.predict(batch).argmax(1) // 2, twin)  # it answers with a class of the task that it chose
    assert method.stale(net) == []
    with torch.no_grad():
        next(p for n, p in net.named_parameters() if "base_layer.weight" in n).add_(1.0)
    assert method.stale(net) == [0, 1, 2]


def test_one_adapter_for_all_moves_with_every_task_and_the_backbone_does_not():
    met, net, seen = stream(), Net(), []
    before = base_of(net)
    look = lambda who, index: seen.append({n: p.detach().clone() for n, p in net.named_parameters() if "lora" in n})  # noqa: E731
    learned(TaskAdapters(rank=3, per="all"), net, met, look)
    assert same(before, base_of(net)) and list(adapters_in(net)) == ["shared"]
    assert all(not torch.equal(seen[0][n], seen[1][n]) and not torch.equal(seen[1][n], seen[2][n]) for n in seen[0])


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_an_adapter_starts_as_the_identity_and_draws_from_no_global_generator(kind: Any):
    net, x = Net().eval(), torch.randn(5, 8)
    before, dice = net.body(x), torch.get_rng_state()
    put_in(net, "new", config_of(kind, targets_in(net), 4, 8.0), seed=3)
    assert torch.equal(torch.get_rng_state(), dice)
    assert torch.equal(net.body(x), before)
    assert net.head.weight.requires_grad and all(p.device.type == "cpu" for p in net.parameters())
    if kind == "lora":
        a = net.body[0].lora_A["new"].weight.detach()
        assert a.abs().max() <= 8**-0.5 and a.std() == pytest.approx(8**-0.5 / 3**0.5, rel=0.3)


def test_lora_adds_what_its_formula_says():
    net, x = Net().eval(), torch.randn(5, 8)
    put_in(net, "one", config_of("lora", ["body.0"], 2, 6.0))
    layer: Any = net.body[0]
    with torch.no_grad():
        layer.lora_B["one"].weight.normal_()
        low = x @ layer.lora_A["one"].weight.T @ layer.lora_B["one"].weight.T
        assert torch.allclose(layer(x), layer.base_layer(x) + 6.0 / 2 * low, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_merged_equals_unmerged_and_leaves_the_model_alone(kind: Any):
    net = Net()
    who = learned(TaskAdapters(kind=kind, rank=3), net, stream(told=True))
    x, there = stream()[0].tests["task0"].take(torch.arange(9)).x, {n: t.clone() for n, t in net.state_dict().items()}
    net.eval()
    for name in adapters_in(net):
        plain = merged(net, name)
        assert not adapted(plain) and not adapters_in(plain)
        with answering_with(net, name):
            far = (plain.body(x) - net.body(x)).abs().max()
        assert far < 1e-6 * net.body(x).abs().max().clamp_min(1)
    assert same(there, net.state_dict())
    assert torch.equal(merged(net).body(x), Net().eval().body(x))
    assert who.stages[0].method.count == 3


@pytest.mark.parametrize("key", ["body.0", r"^body\.0", "0"])
def test_ranks_and_scales_of_single_layers_are_kept_wherever_they_are_told(tmp_path: Path, key: str):
    patterns: Any = {"rank_pattern": {key: 3}, "alpha_pattern": {key: 9}}
    made, again, read, x = Net().eval(), Net().eval(), Net().eval(), torch.randn(5, 8)
    put_in(made, "one", peft.LoraConfig(r=2, lora_alpha=4, target_modules=r"body\.(0|4)", **patterns))
    with torch.no_grad():
        for name, param in made.named_parameters():
            if "lora_B" in name:
                param.normal_()
    rebuild(again, json.loads(json.dumps(describe(made))))
    again.load_state_dict(made.state_dict())
    save_adapters(made, tmp_path)
    load_adapters(read, tmp_path)
    plain = peft.PeftModel.from_pretrained(Net().eval().body, tmp_path / "one")
    assert made.body[0].scaling == {"one": 3.0} and made.body[4].scaling == {"one": 2.0}
    for body in (again.body, read.body, plain):
        assert torch.equal(body(x), made.body(x))


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")  # "body.0" means no layer there
@pytest.mark.parametrize("key", ["^0", "0", "body.0"])
def test_patterns_of_what_peft_wrapped_go_by_the_layers_that_they_meant(key: str):
    patterns: Any = {"rank_pattern": {key: 5}, "alpha_pattern": {key: 50}}
    made, again = Net(), Net()
    made.body = peft.get_peft_model(made.body, peft.LoraConfig(r=2, target_modules=["0", "4"], **patterns))
    rebuild(again, json.loads(json.dumps(describe(made))))
    again.load_state_dict(unwrapped(made.state_dict()))
    layers = list(adapted(made).values())
    assert [layer.scaling for layer in adapted(again).values()] == [layer.scaling for layer in layers]
    assert (layers[0].r["default"] == 5) == (key != "body.0")


def test_adapters_with_patterns_of_another_kind_are_described_too():
    net = Net()
    net.body = peft.get_peft_model(net.body, peft.LoHaConfig(r=2, target_modules=["0"], alpha_pattern={"0": 5}))
    told = describe(net)
    assert told is not None and told["adapters"]["default"]["peft_type"] == "LOHA"


def factored() -> nn.Module:
    """OSFT's factors in one layer and an adapter in another, none of them at its start."""
    net = Net().eval()
    put_in_osf(net, {"body.0": decomposed(net.body[0].weight, 2)})
    put_in(net, "one", config_of("lora", ["body.4"], 2, 6.0))
    with torch.no_grad():
        for name, param in net.named_parameters():
            if "_low" in name or "lora_B" in name:
                param.add_(torch.randn_like(param))
    return net


def test_factors_that_stand_for_a_weight_are_merged_and_never_dropped():
    net, x = factored(), torch.randn(5, 8)
    with answering_with(net, "one"):
        both = net.body(x)
    with answering_with(net):
        factors = net.body(x)
    assert not torch.allclose(both, factors, atol=1e-2)
    assert not torch.allclose(factors, Net().eval().body(x), atol=1e-2)
    for part in (net.body, merged(net, "one").body):
        assert torch.allclose(part(x), both, atol=1e-4)
    assert not adapted(merged(net))
    for part in (merged(net).body, merged(net.body)):
        assert torch.allclose(part(x), factors, atol=1e-4)
    train_only(net, "one")
    assert not any(p.requires_grad for n, p in net.named_parameters() if "_low" in n)
    assert torch.allclose(net.body(x), both, atol=1e-5)
    told = describe(net)
    assert told is not None and told["active"] == ["one"]


def test_a_part_of_a_model_answers_with_the_adapters_that_are_asked_for():
    net, x = Net().eval(), torch.randn(5, 8)
    bare = net.body(x)
    put_in(net, "one", config_of("lora", ["body.4"], 2, 6.0))
    with torch.no_grad():
        net.body[4].lora_B["one"].weight.normal_()
    with answering_with(net.body):
        assert torch.equal(net.body(x), bare)
    assert torch.equal(merged(net.body)(x), bare) and not torch.equal(net.body(x), bare)


def test_factors_beside_adapters_are_refused_before_the_first_step():
    parts = compose(OSFT(target="body.0"), TaskAdapters(target="body.4", rank=2))
    who = Learner(Net(norm=False), (Stage(parts, ADAMW, epochs=1, batch_size=10),), seed=1)
    with pytest.raises(BadUse, match="a stage of its own"):
        next(iter(who.learn(stream(told=True))))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.model(tmp_path_factory.mktemp("adapted"))


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_plain_peft_loads_the_saved_folder_into_auto_model(kind: Any, encoder: Path, tmp_path: Path):
    from peft import PeftModel
    from transformers import AutoModel

    body = backbone(encoder)
    model = Classifier(body, GrowingLinear(body.width))
    learned(TaskAdapters(kind=kind, rank=2), model, TEXT.stream(((0, 1), (2, 3)), told=True))
    assert save_adapters(model, tmp_path, base=str(encoder)) == ["task0", "task1"]
    rows = TEXT.stream(((0, 1),))[0].task.train.all().x
    model.eval()
    for name in ("task0", "task1"):
        theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(encoder), tmp_path / name).eval()
        with torch.no_grad(), answering_with(model, name):
            ours: Any = model.body.net(**rows).last_hidden_state
            assert torch.equal(theirs(**rows).last_hidden_state, ours)
    fresh = Classifier(backbone(encoder), GrowingLinear(body.width, 4)).eval()
    assert load_adapters(fresh, tmp_path) == ["task0", "task1"]
    with torch.no_grad(), answering_with(fresh, "task1"), answering_with(model, "task1"):
        assert torch.equal(fresh.body(**rows), model.body(**rows))


def test_a_model_of_get_peft_model_is_an_ordinary_model(tmp_path: Path):
    import peft

    def made() -> nn.Module:
        config = peft.LoraConfig(r=2, target_modules=["0", "4"], modules_to_save=["head"])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return peft.get_peft_model(Net(), config)  # pyright: ignore[reportArgumentType]

    met, model = stream(), made()
    nacre.grow(model, 2)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    prints = []
    who = Learner(model, (Stage(EWC(rows=8), ADAMW, epochs=1, batch_size=10),), seed=1)
    for k, _ in enumerate(who.learn(met)):
        prints.append(fingerprint(model))
        if k == 1:
            who.save(tmp_path / "saved")
    end = dict(model.named_parameters())
    assert end["base_model.model.head.modules_to_save.default.weight"].shape == (6, 16)
    moved = {n for n, t in start.items() if not torch.equal(t, end[n][: len(t)])}
    assert moved == {n for n, p in end.items() if "lora_" in n or "modules_to_save" in n}
    assert len(set(prints)) == 3
    again = Learner(made(), (Stage(EWC(rows=8), ADAMW, epochs=1, batch_size=10),), seed=1)
    again.resume(tmp_path / "saved")
    for _ in again.learn(met):
        pass
    assert same(again.model.state_dict(), model.state_dict())
    with torch.no_grad():
        end["base_model.model.head.modules_to_save.default.weight"].add_(1)
    assert fingerprint(model) == prints[-1]  # the head is no part of it


@pytest.mark.parametrize("partner", [lambda: EWC(rows=8), lambda: ER(rows=4)])
@pytest.mark.parametrize("per", ["task", "all"])
def test_composed_and_resumed_in_the_middle_of_the_third_task(partner: Any, per: Any, tmp_path: Path):
    class Saves(nacre.Listener):
        def stepped(self, learner: Learner, loss: torch.Tensor) -> None:
            if learner.experience == 2 and learner.step == 3:
                learner.save(tmp_path / "saved")

    def learner() -> Learner:
        made = Stage(compose(partner(), TaskAdapters(rank=2, per=per)), ADAMW, epochs=1, batch_size=8)
        return Learner(Net(), (made,), seed=2)

    whole = learner()
    for _ in whole.learn(stream(), Saves()):
        pass
    again = learner()
    again.resume(tmp_path / "saved")
    assert (again.experience, again.step) == (2, 3)
    for _ in again.learn(stream()):
        pass
    assert same(whole.model.state_dict(), again.model.state_dict())
    x = stream()[0].tests["task0"].take(torch.arange(9))
    assert torch.equal(whole.predict(x), again.predict(x))


def test_layers_are_found_in_every_kind_of_backbone(encoder: Path):
    found = {
        name: targets_in(Classifier(b := backbone(name), GrowingLinear(b.width))) for name in ("mlp:8-6-4", encoder)
    }
    assert found["mlp:8-6-4"] == ["body.layers.0", "body.layers.2"]
    assert {n.rpartition(".")[2] for n in found[encoder]} == {"query", "value"}  # as PEFT takes them of a BERT
    vit = Classifier(b := backbone("glyph-vit", pretrained=False), GrowingLinear(b.width))
    assert len(targets_in(vit)) == 36 and not any("head" in n for n in targets_in(vit, "all-linear"))
    attention = nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    assert targets_in(attention) == ["1"]  # attention of torch reads the weights of its layers itself
    assert targets_in(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())) == ["0"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch cuts padding off by them
@pytest.mark.parametrize("padded", [False, True])
def test_an_encoder_layer_of_torch_hears_its_adapters_without_a_gradient_too(padded):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2)
    x = torch.randn(3, 5, 16)
    mask = (torch.arange(5) > 2).expand(3, 5) if padded else None
    bare_answer = model(x, src_key_padding_mask=mask)
    put_in(model, "a", config_of("lora", targets_in(model, "all-linear"), 2, 4.0))
    for layer in adapted(model).values():
        nn.init.normal_(layer.lora_B["a"].weight)
    heard = model.train()(x, src_key_padding_mask=mask)
    model.requires_grad_(False).eval()
    with torch.no_grad():
        answers = model(x, src_key_padding_mask=mask)
    kept = slice(3) if padded else slice(5)  # of padding nothing is asked
    assert (answers - heard)[:, kept].abs().max() < 1e-5
    assert (answers - bare_answer)[:, kept].abs().max() > 0.1


def test_in_attention_of_torch_what_peft_has_put_in_counts_as_the_weights_that_it_made():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attn(x, x, x, need_weights=False)[0]

    x, model = torch.randn(2, 3, 8), Attends()
    names = set(model.state_dict())
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["attn"], init_lora_weights=False)).eval()
    found = effective(model.base_model.model)
    assert set(found) == names
    twin = Attends().eval()
    twin.load_state_dict(found)
    assert (twin(x) - model(x)).abs().max() < 1e-5


def test_a_model_that_peft_has_wrapped_is_heard_inside_torchs_encoder_layers_once_a_drive_has_it():
    body = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    config = peft.LoraConfig(target_modules=["linear1", "linear2"], init_lora_weights=False)
    model = peft.get_peft_model(nn.Sequential(body, nn.Flatten(), nn.Linear(24, 2)), config)
    x = torch.randn(10, 3, 8)
    task = nacre.Task(0, nacre.TensorRows(x, torch.arange(10) % 2), (0, 1))
    with nacre.Drive(nacre.Method(), model, ADAMW, task), torch.no_grad():
        assert (model.eval()(x) - model.train()(x)).abs().max() < 1e-5
