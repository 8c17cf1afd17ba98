"""What adapters, exports for the hub and the estimator are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from worlds import Net, stream

import nacre
from nacre.adapters import load_adapters, merged, put_in, put_in_entries, rebuild, save_adapters, targets_in
from nacre.adapters.layers import config_of
from nacre.core.errors import BadCheckpoint, BadData, BadModel, BadSetting, MissingExtra, UnknownName
from nacre.core.optim import MadeOptimizer
from nacre.experiment import Experiment, load, to_hub
from nacre.learner import Learner, Stage
from nacre.methods import TaskAdapters
from tests.end_to_end.small import config
from tests.errors.row import Place, Row
from tests.texts import small

X, Y = np.zeros((4, 8, 8, 1), np.uint8), [0, 1, 0, 1]


def adapted(**settings: Any) -> Net:
    net = Net()
    put_in(net, "one", config_of("lora", ["body.0"], 2, 4.0, **settings))
    return net


def no_peft(at: Place) -> Any:
    at.patch.setitem(sys.modules, "peft", None)
    return put_in(Net(), "one", None)


def without_features(at: Place) -> Any:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 6))
    stage = Stage(TaskAdapters(target="0"), MadeOptimizer("sgd", 0.1))
    return list(Learner(model, (stage,)).learn(stream()))


def of_dora(at: Place) -> Any:
    import peft

    return put_in(Net(), "one", peft.LoraConfig(r=2, target_modules=["0"], use_dora=True))


def saved(at: Place) -> Path:
    save_adapters(adapted(), at / "kept")
    return at / "kept"


def cut(at: Place) -> Any:
    (saved(at) / "one" / "adapter_model.safetensors").write_bytes(b"no tensors")
    return load_adapters(Net(), at / "kept")


def twice(at: Place) -> None:
    model, folder = Net(), saved(at)
    load_adapters(model, folder)
    load_adapters(model, folder)


def of_other_shape(at: Place) -> Any:
    net = Net()
    net.body[0] = nn.Linear(9, 32)
    return load_adapters(net, saved(at))


def altered(at: Place) -> Any:
    return rebuild(Net(), {"adapters": {"one": {"peft_type": "LORA", "r": "two"}}, "active": ["one"]})


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    return model


def run_of(at: Place, *changes: str) -> Path:
    told = config("stream.tasks=2", "data.source=digits", *changes, stage=[{"methods": ["simplecil"]}])
    Experiment(told).run(at / "run")
    return at / "run"


def out_of(at: Place) -> Path:
    at.write("out/notes.txt", "mine")
    return at / "out"


def other_weights(at: Place) -> Any:
    encoder = small.model(at / "encoder")
    changes = (f"data.source={small.tables(at / 'data', 3, 2)}", f"backbone.source={encoder}")
    to_hub(run_of(at, *changes), at / "out")
    (at / "out" / "model.safetensors").unlink()
    return load(at / "out")


ADAPTERS: list[Row] = [
    Row(
        "PEFT is not installed",
        MissingExtra,
        "an adapter needs the package 'peft', which is not installed: pip install 'nacre[peft]'",
        no_peft,
    ),
    Row(
        "layers that there are not",
        BadSetting,
        "adapters such as those of TaskAdapters have nowhere to go: target = 'query' names no layer of Net below its head, "
        'whose layers are body.0, body.4; give names or the ends of names, such as "query,value", or "all-linear"',
        lambda at: targets_in(Net(), "query"),
    ),
    Row(
        "an adapter of a kind that is wrapped by PEFT only",
        BadSetting,
        "the adapter 'one' is LORA with use_dora: LoRA that starts with B = 0 and (IA)^3 are put in here; wrap the model with "
        "peft.get_peft_model for any other, which a stage takes like any model",
        of_dora,
    ),
    Row(
        "a task chosen by features that a model does not give",
        BadModel,
        'TaskAdapters reads features, but the model answers with logits only: …; or set choose = "last", which needs no '
        "features",
        without_features,
    ),
    Row(
        "merging an adapter that there is not",
        UnknownName,
        "unknown adapter 'two': known are one",
        lambda at: merged(adapted(), "two"),
    ),
    Row(
        "saving where there is no adapter",
        BadModel,
        "Net has no adapters to save: train it with TaskAdapters, or put_in one",
        lambda at: save_adapters(Net(), at / "kept"),
    ),
    Row(
        "saving an adapter that there is not",
        UnknownName,
        "unknown adapter 'two': known are one",
        lambda at: save_adapters(adapted(), at / "kept", ["two"]),
    ),
    Row(
        "a folder without adapters",
        BadData,
        "'PATH' holds no adapters: give a folder with adapter_config.json in it, or around such folders",
        lambda at: load_adapters(Net(), at.folder),
    ),
    Row(
        "a damaged adapter",
        BadData,
        "the adapter in 'PATH/kept/one' cannot be read: …. Save it again",
        cut,
    ),
    Row(
        "an adapter of another backbone",
        BadData,
        "the adapter in 'PATH/kept/one' belongs to the layer '0', which Linear does not have: load it into the backbone "
        "that it was trained on",
        lambda at: load_adapters(nn.Linear(2, 2), saved(at)),
    ),
    Row(
        "an adapter of a name that is there",
        BadSetting,
        "the model has an adapter 'one' already, and 'PATH/kept/one' would be read into it: rename the folder, or load it "
        "into a model without that adapter",
        twice,
    ),
    Row(
        "an adapter of a wider backbone",
        BadData,
        "the adapter in 'PATH/kept/one' has no lora_A.weight of shape (2, 9) for body.0: load it into the backbone that it was "
        "trained on",
        of_other_shape,
    ),
    Row(
        "adapters in an export that was altered",
        BadData,
        "the adapters described here cannot be put into this model (…): was the description altered?",
        altered,
    ),
    Row(
        "chosen entries of a weight that there is not",
        UnknownName,
        "unknown weight 'weights': did you mean 'weight'? known are bias, weight",
        lambda at: put_in_entries(nn.Linear(2, 2), {"weights": torch.ones(2, 2).bool()}),
    ),
    Row(
        "chosen entries by a mask that is none",
        BadSetting,
        "the mask of weight is of shape (2,) and torch.float32: give a bool mask of the weight's shape, (2, 2)",
        lambda at: put_in_entries(nn.Linear(2, 2), {"weight": torch.ones(2)}),
    ),
    Row(
        "chosen entries of a tied weight",
        BadSetting,
        "0.weight cannot be tuned in compact form, for it is tied: it is 0.weight and 1.weight: leave it out, and let "
        "nacre.rules.Rest keep the entries of it that shall not move; nacre.adapters.unfit names all such weights",
        lambda at: put_in_entries(tied(), {"0.weight": torch.ones(2, 2).bool()}),
    ),
]

EXPORTS: list[Row] = [
    Row(
        "an export into a folder that is not empty",
        BadSetting,
        "'PATH/out' is there and not empty: give a new folder, or clear it first",
        lambda at: to_hub(run_of(at), out_of(at)),
    ),
    Row(
        "an export whose weights are gone",
        BadCheckpoint,
        "PATH/out/model.safetensors is not the file that this model was exported with: export it again with `nacre export`, or "
        "fetch it again",
        other_weights,
    ),
    Row(
        "texts by a pipe, for a model that reads none",
        2,
        "- reads texts, a line each, and this model reads none: give files",
        lambda at: at.command("predict", run_of(at), "-"),
    ),
    Row(
        "a folder without anything to predict",
        1,
        "PATH/empty holds no pictures (…): give another folder, or files one by one",
        lambda at: (at.write("empty/a.txt", "a"), at.command("predict", run_of(at), at / "empty")),
    ),
]

ESTIMATORS: list[Row] = [
    Row(
        "a model where a method is meant",
        BadSetting,
        "method is a method or its name, not Linear; a model of backbone and head is nacre.backbones.Classifier(body, head)",
        lambda at: nacre.Classifier(nn.Linear(2, 2)).fit(torch.zeros(2, 2), [0, 1]),  # pyright: ignore[reportArgumentType]
    ),
    Row(
        "a bound, which learns all tasks at once",
        BadSetting,
        "Joint learns from the rows of all tasks at once, and each call brings those of one: give fit all rows with method = "
        '"fine-tuning", or take another method',
        lambda at: nacre.Classifier("Joint").fit(np.zeros((4, 2)), Y),
    ),
    Row(
        "vectors, where it learned from pictures",
        BadData,
        "this classifier learned from pictures of shape (8, 8, 1): give pictures",
        lambda at: nacre.Classifier().fit(X, Y).predict(np.zeros((2, 64))),
    ),
    Row(
        "pictures on another scale",
        BadData,
        "pictures are uint8 in 0..255 or float in 0..1, not float64 in 0..200: divide them",
        lambda at: nacre.Classifier().fit(np.linspace(0, 200, 256).reshape(4, 8, 8, 1), Y),
    ),
    Row(
        "pictures of another size than before",
        BadData,
        "rows have the shape (9, 8, 1), those of before (8, 8, 1): give rows of one shape",
        lambda at: nacre.Classifier().fit(X, Y).predict(np.zeros((2, 9, 8, 1), np.uint8)),
    ),
]
