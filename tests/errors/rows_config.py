"""What configs, and names of parts in them, are refused; over 300 lines because it is a table."""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from nacre.catalogue import about, build, entries, find, import_plugins, make
from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.core.optim import MadeOptimizer
from nacre.experiment import Config
from nacre.schedules import Phase, schedule
from tests.errors.row import Place, Row

STAGE: dict[str, Any] = {"stage": [{"methods": [{"name": "ER"}, {"name": "EWC"}]}]}


def config(*changes: str, **tables: Any) -> Config:
    """The config of two methods, with changes as on the command line."""
    return Config.of({**STAGE, **tables}, changes)


def toml(at: Place, text: str | bytes) -> Config:
    return Config.load(at.write("a.toml", text))


def lazy(at: Place) -> ModuleType:
    """A module that is here, and that would run code if it were asked for what it has not."""
    module = ModuleType("lazy")
    module.__dict__["__getattr__"] = lambda name: at.write("ran", name)
    at.patch.setitem(sys.modules, "lazy", module)
    return module


def plugin(at: Place, text: str, name: str = "mine_for_errors") -> None:
    at.write(f"{name}.py", text)
    at.patch.syspath_prepend(at.folder)
    import_plugins([name])


@dataclass
class Needy:
    """A part that must be told something."""

    size: int


LINEAR = dict(nn.Linear(2, 1).named_parameters())

FILES = [
    Row(
        "no such file",
        BadSetting,
        "the config PATH/gone.toml cannot be read: …: give a TOML file, or a run's folder",
        lambda at: Config.load(at / "gone.toml"),
    ),
    Row(
        "no TOML",
        BadSetting,
        "PATH/a.toml is no TOML: …: see docs/run.md for what a config says",
        lambda at: toml(at, "[run\n"),
    ),
    Row(
        "YAML with tags that ask for code",
        BadSetting,
        "PATH/a.toml is no TOML: …: see docs/run.md for what a config says",
        lambda at: toml(at, '!!python/object/apply:os.system ["id"]\n'),
    ),
    Row(
        "another encoding",
        BadSetting,
        "PATH/a.toml is no TOML: …: see docs/run.md for what a config says",
        lambda at: toml(at, b'[run]\nname = "K\xf6ln"\n'),
    ),
    Row(
        "NUL bytes",
        BadSetting,
        "PATH/a.toml is no TOML: …: see docs/run.md for what a config says",
        lambda at: toml(at, b'[run]\nname = "a\0"\n'),
    ),
    Row(
        "a file that is no page of text",
        BadSetting,
        "PATH/a.toml has more than 262,144 bytes: a config is a page of TOML; is it the right file?",
        lambda at: toml(at, "#" * 300_000),
    ),
    Row(
        "tables nested too deeply",
        BadSetting,
        "'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a' is nested more than 16 deep: no setting is",
        lambda at: toml(at, f"a{'.a' * 500} = 1\n"),
    ),
    Row(
        "lists nested too deeply",
        BadSetting,
        "PATH/a.toml is no TOML: …: see docs/run.md for what a config says",
        lambda at: toml(at, "a = " + "[" * 50_000),
    ),
    Row(
        "numbers of thousands of digits",
        BadSetting,
        "PATH/a.toml is no TOML: …: see docs/run.md for what a config says",
        lambda at: toml(at, f"a = {'9' * 5000}\n"),
    ),
]

TABLES = [
    Row(
        "a table or setting that there is not",
        UnknownName,
        "stage.0: unknown setting of [[stage]] 'epoch': did you mean 'epochs'? known are …",
        lambda at: config("stage.0.epoch=1"),
    ),
    Row(
        "a table that there is not",
        UnknownName,
        "unknown setting of the config 'stages': did you mean 'stage'? known are …",
        lambda at: config(stages=[]),
    ),
    Row(
        "no stage",
        BadSetting,
        'the config has no [[stage]]: add one, such as [[stage]] with methods = [{name = "ER"}]',
        lambda at: Config.of({}),
    ),
    Row(
        "more stages than anybody writes",
        BadSetting,
        "stage has 101 entries: at most 100 are made",
        lambda at: Config.of({"stage": [{}] * 101}),
    ),
    Row(
        "more entries than anybody writes",
        BadSetting,
        "run.seeds has 10001 entries: lists have at most 10000",
        lambda at: config(run={"seeds": [0] * 10_001}),
    ),
    Row(
        "a stage that is no list",
        BadSetting,
        "stage is a list of tables: write [[stage]] with two brackets",
        lambda at: Config.of({"stage": {"epochs": 1}}),
    ),
    Row(
        "a value of another type",
        BadSetting,
        "stage.0.epochs is a whole number, not 'five' (str)",
        lambda at: config("stage.0.epochs=five"),
    ),
    Row(
        "a word that is none of the choices",
        BadSetting,
        "stage.0.clock is 'task' or 'stream', not 'stram' (str): did you mean 'stream'?",
        lambda at: config("stage.0.clock=stram"),
    ),
    Row(
        "a setting that the kind of stream has not",
        UnknownName,
        "stream: unknown setting of [stream] of the kind permuted 'padd': did you mean 'pad'? known are …",
        lambda at: config("stream.kind=permuted", "stream.padd=2"),
    ),
    Row(
        "a value in place of a table",
        BadSetting,
        "data is a table, not 'digits' (str)",
        lambda at: config(data="digits"),
    ),
    Row(
        "a value out of its range",
        BadSetting,
        "stage.0: epochs must be at least 1, not 0",
        lambda at: config("stage.0.epochs=0"),
    ),
    Row(
        "a number that is not finite",
        BadSetting,
        "stage.0.clip is inf: settings are finite numbers",
        lambda at: config("stage.0.clip=inf"),
    ),
    Row(
        "a number of more than 64 bits",
        BadSetting,
        "run.seeds.0 is a number of 71 bits: whole numbers have at most 64",
        lambda at: config(f"run.seeds=[{2**70}]"),
    ),
    Row(
        "a date",
        BadSetting,
        "run.name is datetime.date(2020, 1, 1) (date): write tables, lists, texts, numbers, true or false",
        lambda at: config(run={"name": datetime.date(2020, 1, 1)}),
    ),
    Row(
        "control characters",
        BadSetting,
        "run.name is 'a\\x1b[31m': texts have no control characters and at most 10000 letters",
        lambda at: config(run={"name": "a\x1b[31m"}),
    ),
    Row("a key that is no name", BadSetting, "run has the key 5: keys are plain names", lambda at: config(run={5: 1})),
    Row(
        "a clip of 0",
        BadSetting,
        'stage.0: clip must be above 0, or "none", not 0.0',
        lambda at: config("stage.0.clip=0"),
    ),
    Row(
        "a device that there is not",
        BadSetting,
        'run: device is "auto", "cpu", "mps", "cuda" or "cuda:1", not \'gpu\'',
        lambda at: config("run.device=gpu"),
    ),
    Row(
        "the same seed twice, or a negative one",
        BadSetting,
        "run: seeds is a list of different whole numbers from 0 on, not [1, 1]",
        lambda at: config("run.seeds=[1, 1]"),
    ),
    Row(
        "a name without a letter",
        BadSetting,
        "run: name needs a letter or a digit, for its folder, and at most 200 of them, not '..'",
        lambda at: config("run.name=.."),
    ),
    Row(
        "a name that is a path",
        BadSetting,
        "run: name is what the run is called, not a path: leave / and \\ out of '../../elsewhere'",
        lambda at: config("run.name=../../elsewhere"),
    ),
    Row(
        "an empty source", BadSetting, "data: source is a name or a path, not ' '", lambda at: config("data.source=' '")
    ),
    Row(
        "a source that no file can be",
        BadData,
        "data: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ... "
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' cannot be looked for (…): give the path "
        "of a file or a folder",
        lambda at: config(data={"source": "x" * 5000}),
    ),
    Row(
        "an impossible share of test rows",
        BadSetting,
        "data: test_share must be between 0 and 1, not 1.0",
        lambda at: config("data.test_share=1.0"),
    ),
    Row(
        "--set without a value",
        BadSetting,
        "--set takes place=value, such as stage.0.epochs=5, not 'run.device'",
        lambda at: config("run.device"),
    ),
    Row(
        "--set of an entry that there is not",
        BadSetting,
        "--set stage.7.epochs=1: stage has entries 0 to 0, not '7'; write further ones into the config file",
        lambda at: config("stage.7.epochs=1"),
    ),
    Row(
        "--set of a stage before there is one",
        BadSetting,
        "--set stage.0.epochs=1: the config has no [[stage]] yet; write it into the config file",
        lambda at: Config.of({}, ["stage.0.epochs=1"]),
    ),
    Row(
        "--set below what is no table",
        BadSetting,
        "--set stage.0.epochs.x=1: stage.0.epochs is 1, not a table: it has no settings of its own",
        lambda at: config("stage.0.epochs.x=1", stage=[{"epochs": 1}]),
    ),
    Row(
        "--set to a number of thousands of digits",
        BadSetting,
        "--set '99999999999999999999999999999999999999999999999999999999 ... "
        "999999999999999999999999999999999999999999999999999999999': …: write a shorter value",
        lambda at: config(f"stage.0.epochs={'9' * 5000}"),
    ),
]

PARTS = [
    Row(
        "a method that there is not",
        UnknownName,
        "stage.0.methods.0: unknown method 'EWD': did you mean 'EWC'? known are …",
        lambda at: config("stage.0.methods.0.name=EWD"),
    ),
    Row(
        "a method whose name is a path",
        UnknownName,
        "stage.0.methods.0: unknown method '../../ER': known are …",
        lambda at: config("stage.0.methods.0.name=../../ER"),
    ),
    Row(
        "a setting that a method has not",
        UnknownName,
        "stage.0.methods.1: unknown setting of EWC 'strenght': did you mean 'strength'? known are …",
        lambda at: config("stage.0.methods.1.strenght=1"),
    ),
    Row(
        "a method without a name",
        BadSetting,
        "stage.0.methods.0: a method is a table with a name, such as {name = \"...\"}, not {'rows': 1}",
        lambda at: config(stage=[{"methods": [{"rows": 1}]}]),
    ),
    Row(
        "a part inside a part that there is not",
        UnknownName,
        "stage.0.methods.0.memory: unknown part 'Reservior': did you mean 'Reservoir'? known are …",
        lambda at: config("stage.0.methods.0.memory.name=Reservior"),
    ),
    Row(
        "a value of another type in Python",
        BadSetting,
        "capacity is a whole number, not 'many' (str)",
        lambda at: make("memory", {"name": "Reservoir", "capacity": "many"}),
    ),
    Row(
        "a setting that has to be said",
        BadSetting,
        "Needy needs size: write what is missing",
        lambda at: build(Needy, {}),
    ),
    Row(
        "a kind of part that there is not",
        UnknownName,
        "unknown kind of part 'methud': did you mean 'method'? known are …",
        lambda at: entries("methud"),
    ),
    Row(
        "a part that there is not",
        UnknownName,
        "unknown part 'reservor': did you mean 'Reservoir'? known are …",
        lambda at: about("reservor"),
    ),
    Row(
        "an optimizer that there is not",
        UnknownName,
        "unknown optimizer 'adanw': did you mean 'adamw'? known are …",
        lambda at: MadeOptimizer("adanw"),
    ),
    Row(
        "a setting that an optimizer has not",
        UnknownName,
        "stage.0.optimizer: unknown setting of optimizer 'adamw' 'momentun': known are …",
        lambda at: config("stage.0.optimizer.momentun=1"),
    ),
    Row(
        "a setting that torch refuses",
        BadSetting,
        "stage.0.optimizer: the settings of adamw do not fit: …; see `nacre show adamw`",
        lambda at: config("stage.0.optimizer.betas=[0.9]"),
    ),
    Row(
        "a setting for CUDA graphs",
        BadSetting,
        "stage.0.optimizer: capturable is for CUDA graphs or gradients through steps, which are not taken "
        "here: leave it out",
        lambda at: config("stage.0.optimizer.capturable=true"),
    ),
    Row(
        "a negative learning rate",
        BadSetting,
        "stage.0.optimizer: a learning rate is a number of at least 0, not -1",
        lambda at: config("stage.0.optimizer.lr=-1"),
    ),
    Row(
        "a group of weights without a match",
        BadSetting,
        "an optimizer group needs match = a regular expression of parameter names, not {'lr': 1.0}",
        lambda at: MadeOptimizer(groups=[{"lr": 1.0}]),
    ),
    Row(
        "a match that is no regular expression",
        BadSetting,
        "match = '(' is no regular expression (…): repair it",
        lambda at: MadeOptimizer(groups=[{"match": "("}]),
    ),
    Row(
        "a setting that groups have not",
        UnknownName,
        "unknown setting of optimizer 'adamw' 'lrr': did you mean 'lr'? known are …",
        lambda at: MadeOptimizer(groups=[{"match": "a", "lrr": 1.0}]),
    ),
    Row(
        "a match that matches nothing",
        BadSetting,
        "the optimizer group 'head' matches no parameter of ['bias', 'weight'] ...: name a part of one",
        lambda at: MadeOptimizer(groups=[{"match": "head"}])(LINEAR),
    ),
    Row(
        "nothing to train",
        BadSetting,
        "nothing to train: every parameter is frozen (requires_grad is False)",
        lambda at: MadeOptimizer()({}),
    ),
    Row(
        "a schedule that there is not",
        UnknownName,
        "unknown schedule 'cosin': did you mean 'cosine'? known are …",
        lambda at: schedule("cosin"),
    ),
    Row(
        "a setting that a schedule has not",
        UnknownName,
        "unknown setting of schedule 'cosine' 'warmpu': did you mean 'warmup'? known are …",
        lambda at: schedule("cosine", warmpu=2),
    ),
    Row(
        "a negative warm-up",
        BadSetting,
        "warmup of schedule 'cosine' is a number of at least 0, not -1",
        lambda at: schedule("cosine", warmup=-1),
    ),
    Row(
        "a warm-up that is neither steps nor a share",
        BadSetting,
        "warmup of schedule 'cosine' is a share in [0, 1] or a whole number of steps, not 1.5",
        lambda at: schedule("cosine", warmup=1.5),
    ),
    Row(
        "shares that are more than the whole",
        BadSetting,
        "wsd takes shares with warmup + decay <= 1, not 0.9 and 0.2",
        lambda at: schedule("wsd", warmup=0.9),
    ),
    Row(
        "a shape of phase that there is not",
        UnknownName,
        "unknown shape 'linaer': did you mean 'linear'? known are …",
        lambda at: Phase(1, 0.0, 1.0, "linaer"),
    ),
    Row(
        "an inverse phase that reaches 0",
        BadSetting,
        "an inverse phase never reaches 0: use a small floor",
        lambda at: Phase(1, 0.0, 1.0, "inverse"),
    ),
    Row(
        "a phase of impossible length",
        BadSetting,
        "a phase's length is a number of steps or a share in (0, 1], not -1",
        lambda at: Phase(-1, 0.0, 1.0),
    ),
]

PLUGINS = [
    Row(
        "a class path to code that runs",
        BadSetting,
        "'os:system' is no Method: name a class that is one",
        lambda at: find("method", "os:system"),
    ),
    Row(
        "a class that is no method",
        BadSetting,
        "'subprocess:Popen' is no Method: name a class that is one",
        lambda at: find("method", "subprocess:Popen"),
    ),
    Row(
        "a function of Python",
        BadSetting,
        "'builtins:eval' is no Method: name a class that is one",
        lambda at: find("method", "builtins:eval"),
    ),
    Row(
        "a class of a module that is not here",
        BadSetting,
        "'antigravity:geohash' is not known here: add --plugin antigravity to the command, or import its "
        "module before the config is read; a config does not import code",
        lambda at: find("method", "antigravity:geohash"),
    ),
    Row(
        "what a module would make when it is asked",
        BadSetting,
        "'lazy:Method' is not known here: add --plugin lazy to the command, or import its module before the "
        "config is read; a config does not import code",
        lambda at: lazy(at) and find("method", "lazy:Method"),
    ),
    Row(
        "a method in place of a memory",
        BadSetting,
        "stage.0.methods.0.memory: 'nacre.methods.er:ER' is no Memory: name a class that is one",
        lambda at: config("stage.0.methods.0.memory.name='nacre.methods.er:ER'"),
    ),
    Row(
        "a config of a plugin that was not given",
        BadSetting,
        "run.plugins: this config was written with the plugin 'my_methods', which was not given: add "
        "--plugin my_methods if you trust it; a config does not import code",
        lambda at: config("run.plugins=['my_methods']"),
    ),
    Row(
        "a plugin whose name is a path",
        BadSetting,
        "run.plugins: plugins are names of Python modules, such as my_methods, not '../my_methods'",
        lambda at: config("run.plugins=['../my_methods']"),
    ),
    Row(
        "--plugin with a path",
        BadSetting,
        "--plugin takes the name of a Python module, such as my_methods, not '../my_methods.py'",
        lambda at: import_plugins(["../my_methods.py"]),
    ),
    Row(
        "--plugin with a module that there is not",
        BadSetting,
        "--plugin no_such_module_here: there is no module 'no_such_module_here' in the present folder or "
        "among what is installed",
        lambda at: import_plugins(["no_such_module_here"]),
    ),
    Row(
        "a plugin that needs another module",
        BadSetting,
        "--plugin mine_for_errors needs a module that is not installed: No module named 'no_such_module_here'",
        lambda at: plugin(at, "import no_such_module_here"),
    ),
    Row(
        "a plugin that fails",
        BadSetting,
        "--plugin mine_for_errors fails when it is imported: ZeroDivisionError: division by zero; repair it, "
        "or see `nacre --debug` for the place",
        lambda at: plugin(at, "1 / 0"),
    ),
]
