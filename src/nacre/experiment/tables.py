"""The tables of a config, each setting with its default and its meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..backbones import TextPool
from ..catalogue import NONE
from ..core.errors import BadSetting, shown
from ..core.finite import OnNonFinite
from ..core.state import check_settings, setting

DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass
class Table:
    """One table of a config."""

    heading: ClassVar[str] = "the config"

    def __post_init__(self) -> None:
        try:
            check_settings(self)
        except BadSetting as error:  # in a config the table's place says whose setting it is
            raise BadSetting(str(error).removeprefix(f"{type(self).__name__}.")) from None


@dataclass
class RunTable(Table):
    """`[run]`: how often, where and how exactly."""

    heading: ClassVar[str] = "[run]"

    name: str = setting("run", "what the run is called in tables; its folder is named after it")
    seeds: list[int] = setting(lambda: [0], "one run each; several give mean and spread")
    device: str = setting("auto", '"auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1"')
    precision: Literal["fp32", "bf16"] = setting("fp32", "of forward passes")
    deterministic: bool = setting(
        False, "ask torch for deterministic algorithms; on the CPU runs repeat exactly anyway"
    )
    threads: int = setting(0, "CPU threads; 0 leaves them alone", low=0, high=1024)
    keep: int = setting(2, "checkpoints kept a seed", low=1)
    save_every: int = setting(0, "steps between checkpoints, beside those at the borders of stages and tasks", low=0)
    save_seconds: float = setting(600.0, "seconds after which a checkpoint is written, too; 0 = never", low=0)
    on_nonfinite: OnNonFinite = setting(
        "stop",
        'when a loss, gradient or weight is NaN or infinite: "stop", "skip" the step, or "rollback" to the last multiple of '
        "save_every (of 100 where that is 0) and leave out the batches up to the bad one, three times at most",
    )
    verify_rest: bool = setting(
        True, "stop where an entry moved that was asked to rest throughout a stage; else it is only written down"
    )
    track: list[str] = setting(
        list,
        "trackers that are sent the record of each seed when it ends: tensorboard, wandb, mlflow, trackio",
    )
    plugins: list[str] = setting(list, "modules with parts of others, as --plugin imported them; a config imports none")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not DEVICE.fullmatch(self.device):
            raise BadSetting(f'device is "auto", "cpu", "mps", "cuda" or "cuda:1", not {self.device!r}')
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise BadSetting(f"seeds is a list of different whole numbers from 0 on, not {self.seeds!r}")
        if not re.search(r"[A-Za-z0-9]", self.name) or len(self.name) > 200:
            raise BadSetting(
                f"name needs a letter or a digit, for its folder, and at most 200 of them, not {shown(self.name)}"
            )
        if re.search(r"[/\\\x00-\x1f]", self.name):
            raise BadSetting(f"name is what the run is called, not a path: leave / and \\ out of {self.name!r}")


@dataclass
class DataTable(Table):
    """`[data]`: what is learned from."""

    heading: ClassVar[str] = "[data]"

    source: str = setting(
        "digits",
        "a name (see `nacre list data`), hf:ORG/NAME, or a path: pictures in folders or MNIST files, tables, datasets, .npz",
    )
    text: str | None = setting(None, "the column of the texts in a table; none goes by the names of the columns")
    label: str | None = setting(None, "the column of the labels in a table; none goes by the names of the columns")
    image: str | None = setting(None, "the column of the pictures in a Hugging Face dataset; none takes them, if any")
    size: int | list[int] | None = setting(None, "side, or [height, width], that pictures in folders are stretched to")
    anchors: str | None = setting(
        None,
        "more data of the same kind, whose labels nobody reads: methods look through them at how the backbone changes",
    )
    test_share: float = setting(0.2, "the part of each class that is kept for testing where there are no test rows")
    seed: int | None = setting(
        None, "draws what is drawn of the data, such as test rows where there are none; none = the run's seed", low=0
    )
    tested_on: Literal["test", "validation"] = setting(
        "test",
        '"validation" leaves test rows alone, to choose settings: the rows the data bring, or a share of the training rows',
    )
    validation_share: float = setting(0.1, "that share, of each class")

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_empty(self.source)
        if not 0 < self.test_share < 1:
            raise BadSetting(f"test_share must be between 0 and 1, not {self.test_share!r}")
        if not 0 < self.validation_share < 1:
            raise BadSetting(f"validation_share must be between 0 and 1, not {self.validation_share!r}")

    def reading(self) -> dict[str, Any]:
        """What `nacre.data.load` is told beside the source."""
        return {
            "text": self.text,
            "label": self.label,
            "image": self.image,
            "size": self.size,
            "test_share": self.test_share,
        }


@dataclass
class StreamTable(Table):
    """`[stream]`: what arrives in which order, and when it is tested."""

    heading: ClassVar[str] = "[stream]"

    kind: str = setting("class-incremental", "see `nacre list streams`; what else can be set goes by the kind")
    arrival: Literal["offline", "online", "task-free"] = setting(
        "offline",
        'rows stay as long as a task lasts; "online": are met once; "task-free": and nobody says where tasks end',
    )
    first: int | None = setting(None, "only so many tasks of it are learned and tested, for choosing settings", low=1)
    evaluate: Literal["seen", "all", "last"] = setting(
        "seen", "after each task test the tasks learned so far, or all (also before the first), or only after the last"
    )
    settings: dict[str, Any] = field(default_factory=dict, metadata={"kind": "by kind"})

    def to_dict(self) -> dict[str, Any]:
        """As it is written: the settings of the kind stand beside the others."""
        own = {"kind": self.kind, "arrival": self.arrival, "first": self.first, "evaluate": self.evaluate}
        return {**own, **self.settings}


@dataclass
class BackboneTable(Table):
    """`[backbone]`: the model under the head."""

    heading: ClassVar[str] = "[backbone]"

    source: str = setting(
        "convnet", "a name (see `nacre list backbones`), a Hugging Face folder or hub id, or timm:NAME"
    )
    pretrained: bool = setting(True, "false draws the weights of a pre-trained model anew")
    layers: int | None = setting(None, "of a Hugging Face model: its first layers that are kept; none = all", low=1)
    pool: TextPool = setting(
        "auto",
        'of a text model: its tokens become one row by "mean", "cls" or "last"; "auto" as its files say, else the mean',
    )
    max_length: int | None = setting(
        None, "of a text model: tokens that a text is cut to; none = as its files say", low=1
    )
    normalize: bool | None = setting(
        None, "of a text model: whether features are scaled to length 1; none = as its files say"
    )
    frozen: bool = setting(False, "whether its weights stay as they are, so that only the head trains")
    cache: Literal["auto", "off"] = setting(
        "auto", "take the features of all rows once and keep them, wherever no stage can change them; see `nacre cache`"
    )
    augment: str | list[str] = setting(NONE, "how training pictures are changed, see `nacre list augments`")

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_empty(self.source)

    def of_its_kind(self) -> dict[str, Any]:
        """What `nacre.backbones.backbone` is told that only some kinds of backbones can be told."""
        return {
            "layers": self.layers,
            "pool": self.pool,
            "max_length": self.max_length,
            "normalize": self.normalize,
        }


@dataclass
class StageTable(Table):
    """`[[stage]]`: training on a task with one method and one optimizer; several follow one another on each task."""

    heading: ClassVar[str] = "[[stage]]"

    methods: list[dict[str, Any]] = setting(
        list, "tables with a name and settings, composed in this order; [] fine-tunes"
    )
    when: str = setting("every", 'which tasks: "every", "first", "later", or numbers and spans such as "0,3-5"')
    optimizer: dict[str, Any] | None = setting(
        lambda: {"name": "adamw", "lr": 0.001},
        'name, lr, further settings, groups = [{match = "head", lr = ...}]; "none" trains nothing, and is the default where '
        "methods only read features out",
    )
    optimizer_state: Literal["new", "kept"] = setting(
        "new", "whether momenta and second moments begin anew with each task, or go on from the one before"
    )
    schedule: dict[str, Any] = setting(lambda: {"name": "constant"}, "how the learning rate goes: name and settings")
    clock: Literal["task", "stream"] = setting("task", "what the schedule counts: steps of the task, or of the stream")
    epochs: int = setting(1, "how often each row is met", low=1)
    steps: int | None = setting(None, "optimizer steps, instead of epochs", low=1)
    batch_size: int = setting(64, "rows of the stream per optimizer step", low=1)
    accumulate: int = setting(1, "micro-batches that each step is cut into", low=1)
    clip: float | None = setting(None, "the largest norm of the whole gradient, above 0")
    frozen_norms: bool = setting(True, "whether norm layers whose weights all rest keep their statistics too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is not None and self.clip <= 0:
            raise BadSetting(f'clip must be above 0, or "{NONE}", not {self.clip!r}')


@dataclass
class WatchTable(Table):
    """`[watch]`: small fixed test samples that are scored while training goes on."""

    heading: ClassVar[str] = "[watch]"

    every: int = setting(0, "steps between scorings; 0 = none", low=0)
    rows: int = setting(100, "rows of each task", low=1)


def _refuse_empty(source: str) -> None:
    if not source.strip():
        raise BadSetting(f"source is a name or a path, not {source!r}")


TABLES: tuple[type[Table], ...] = (RunTable, DataTable, StreamTable, BackboneTable, StageTable, WatchTable)
"""The tables of a config, in their order."""
