"""Parts of others come by hand only: `--plugin` imports, and whatever a config says, it does not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from nacre.catalogue import entries, find, import_plugins, plugins
from nacre.cli.main import cli
from nacre.core.errors import BadSetting, NacreError
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, crew, load
from tests.end_to_end.small import config, pictures

CODE = '''
"""Methods of somebody else's."""

from dataclasses import dataclass

from nacre import Method
from nacre.core.state import setting
from nacre.memory import Memory, Reservoir
from nacre.methods import SimpleCIL


@dataclass
class Louder(SimpleCIL):
    """Answers by the nearest mean, louder."""

    gain: float = setting(2.0, "how much louder", low=1)

    def predict(self, model, batch):
        return self.gain * super().predict(model, batch)


@dataclass
class Newest(Reservoir):
    """Keeps what a reservoir keeps, under another name."""

    depth: int = setting(3, "nothing")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the present folder that nobody has imported yet."""
    name = f"mine_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr("nacre.catalogue.foreign._IMPORTED", {})
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words])


def written(name: str, memory: bool = False) -> Path:
    part = f'{{ name = "ER", memory = {{ name = "{name}:Newest", capacity = 5 }} }}' if memory else f'"{name}:Louder"'
    text = f'[stream]\ntasks = 2\n[backbone]\nsource = "mlp:64-16"\n[[stage]]\nmethods = [{part}]\n'
    Path("a.toml").write_text(text)
    return Path("a.toml")


def forget(name: str) -> None:
    """As if a new process had begun."""
    sys.modules.pop(name, None)
    sys.modules["nacre.catalogue.foreign"]._IMPORTED.clear()


def test_a_run_with_a_plugin_goes_on_and_predicts_where_the_plugin_is_given_again(module: str, tmp_path: Path):
    refused = call("run", written(module), "--out", "run")
    assert refused.exit_code == 2 and f"add --plugin {module} to the command" in refused.stderr
    assert module not in sys.modules and not Path("run").exists()
    done = call("run", written(module), "--out", "run", "--plugin", module)
    assert done.exit_code == 0, done.output
    assert Run.load("run").settings["run"]["plugins"] == [module]
    assert Run.load("run").settings["stage"][0]["methods"] == [{"name": f"{module}:Louder", "gain": 2.0, **_rest()}]
    Path("run/run.json").unlink()
    forget(module)
    without = call("resume", "run")
    assert (
        without.exit_code == 2
        and f"written with the plugin '{module}', which was not given: add --plugin {module}" in without.stderr
    )
    assert call("resume", "run", "--plugin", module).exit_code == 0
    forget(module)
    from PIL import Image

    Image.fromarray(pictures()["x_test"][0, 0]).save("one.png")
    blind = call("predict", "run", "one.png")
    assert blind.exit_code == 2 and f"add --plugin {module}" in blind.stderr
    assert call("predict", "run", "one.png", "--plugin", module).exit_code == 0


def _rest() -> dict[str, object]:
    from nacre.core.state import settings
    from nacre.methods import SimpleCIL

    return settings(SimpleCIL())


def test_a_part_inside_a_part_may_be_a_plugins(module: str):
    done = call("run", written(module, memory=True), "--out", "run", "--plugin", module, "--set", "stage.0.steps=3")
    assert done.exit_code == 0, done.output
    memory = Run.load("run").settings["stage"][0]["methods"][0]["memory"]
    assert memory == {"name": f"{module}:Newest", "capacity": 5, "depth": 3}
    again = Config.load("run")
    assert Config.of(again.to_dict()) == again
    method = Run.load("run").stages[0]["methods"][0]
    assert method["memory"]["name"] == f"{module}:Newest"


def test_lists_tell_what_plugins_bring(module: str):
    assert f"{module}:Louder" in call("list", "methods", "--plugin", module).stdout
    assert "how much louder" in call("show", f"{module}:Louder").stdout
    assert plugins() == [module] and f"{module}:Louder" in [e.name for e in entries("method")]
    forget(module)
    assert f"{module}:Louder" not in call("list", "methods").stdout


def test_processes_of_a_comparison_import_what_was_given(module: str, monkeypatch: pytest.MonkeyPatch):
    import_plugins([module])
    asked = []

    class Queue:
        def __init__(self, *held: object):
            self.held = list(held)

        def get(self) -> object:
            return self.held.pop(0)

        def put(self, what: object) -> None:
            asked.append(what)

    forget(module)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    crew._work(Queue(None), Queue(), [module])
    assert module in sys.modules and not asked


def test_plugins_are_found_behind_what_is_installed(module: str, tmp_path: Path):
    (tmp_path / "json.py").write_text("raise RuntimeError('the present folder came first')")
    sys.modules.pop("json.tool", None)
    import_plugins([module, "json.tool"])
    assert sys.path[-1] == "" and plugins() == [module, "json.tool"]


HOSTILE = [
    'methods = [{ name = "os:system", command = "touch ran" }]',
    'methods = [{ name = "subprocess:Popen", args = ["touch", "ran"] }]',
    "methods = [{ name = \"builtins:eval\", source = \"open('ran', 'w')\" }]",
    'methods = ["watched:Method"]',
    'methods = ["ran_module:Method"]',
    'methods = ["..ran_module:Method"]',
    'methods = ["nacre.methods.er.os.system"]',
    'methods = [{ name = "ER", memory = { name = "os:system" } }]',
    'methods = [{ name = "ER", memory = { name = "ran_module:Memory" } }]',
    'methods = [{ name = "!!python/object/apply:os.system", args = ["touch ran"] }]',
    'methods = ["../../../ran_module"]',
    'optimizer = { name = "os:system", lr = 0.1 }',
    'optimizer = { name = "adamw", groups = [{ match = "(?#", lr = 1 }] }',
    'schedule = { name = "os:system" }',
    'methods = ["ER"]\n[backbone]\naugment = "os:system"',
    'methods = ["ER"]\n[stream]\nkind = "os:system"',
    'methods = ["ER"]\n[run]\nplugins = ["ran_module"]',
    'methods = ["ER"]\n[run]\nplugins = ["os; touch ran"]',
    'methods = ["ER"]\n[run]\nname = "../../etc/passwd"',
    'methods = ["ER"]\n[run]\nname = "a\\u0000b"',
    'methods = ["ER"]\n[run]\nseeds = [99999999999999999999999999]',
]


@pytest.mark.parametrize("stage", HOSTILE)
def test_a_hostile_config_is_refused_and_runs_nothing(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ran_module.py").write_text("open('ran', 'w')")
    watched = ModuleType("watched")
    watched.__dict__["__getattr__"] = lambda name: (tmp_path / "ran").write_text(name) if name == "Method" else None
    monkeypatch.setitem(sys.modules, "watched", watched)
    (tmp_path / "a.toml").write_text(f"[[stage]]\n{stage}\n")
    with pytest.raises(NacreError):
        Config.load(tmp_path / "a.toml")
    assert not (tmp_path / "ran").exists() and "ran_module" not in sys.modules


HOSTILE_SOURCES = [
    ("data.source", "../../../../etc/passwd"),
    ("data.source", "digits/../../../etc/passwd"),
    ("data.source", "/dev/zero"),
    ("data.source", "os:system"),
    ("backbone.source", "org/.."),
    ("backbone.source", "../../../../etc"),
    ("backbone.source", "..%2f..%2fetc/passwd"),
    ("backbone.source", "timm:hf-hub:evil/model"),
    ("backbone.source", "timm:local-dir:/tmp"),
    ("backbone.source", "os:system"),
]


@pytest.mark.parametrize(("place", "name"), HOSTILE_SOURCES)
def test_hostile_names_of_data_and_backbones_are_refused_before_anything_is_written(
    place: str, name: str, tmp_path: Path
):
    with pytest.raises(NacreError):
        Experiment(config(f"{place}='{name}'")).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["run of läuft ✓", "a b, c", "x" * 200])
def test_honest_names_are_no_paths(name: str):
    assert config(run={"name": name}).run.name == name


def test_a_config_with_a_byte_order_mark_or_windows_lines_is_a_config(tmp_path: Path):
    text = '[run]\r\nname = "größe"\r\n[[stage]]\r\nmethods = ["ER"]\r\n'
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert Config.load(tmp_path / "a.toml").run.name == "größe"


def test_an_export_names_parts_and_imports_none(module: str):
    call("run", written(module), "--out", "run", "--plugin", module)
    forget(module)
    with pytest.raises(BadSetting, match=f"add --plugin {module}"):
        load("run")
    assert module not in sys.modules


def test_what_a_plugin_says_of_itself_is_not_what_a_config_asks(module: str):
    import_plugins([module])
    assert find("method", f"{module}:Louder").made_by.__module__ == module
    for name in ("Method", "dataclass", "setting", "__builtins__", "Louder.predict", ""):
        if name != "Method":
            with pytest.raises(BadSetting):
                find("method", f"{module}:{name}")
