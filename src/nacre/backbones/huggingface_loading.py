"""Models in Hugging Face form, of whatever they read: from a folder or the hub, by safetensors alone, or anew by a seed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import BadData, BadSetting, NacreError
from .body import refuse_more, seeded, weights_of
from .huggingface_config import first_sentence, refuse_code_and_giants, unreachable

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
UNUSED = ("mask_token",)  # parameters that only pre-training reads: a checkpoint may lack them


@contextmanager
def quiet() -> Iterator[Any]:
    """transformers, without its progress bars and reports; both are as before afterwards."""
    import transformers

    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield transformers
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def reads(transformers: Any, config: Any) -> list[str]:
    """What the forward pass of a configuration's bare model can be given.

    Raises:
        BadSetting: transformers has no bare model for it.
    """
    return list(inspect.signature(_class_of(transformers, config).forward).parameters)[1:]


def cut_to(config: Any, layers: int | None, where: str) -> None:
    """Let a configuration describe the first `layers` layers of its model alone.

    Raises:
        BadSetting: it has fewer layers, or none that can be counted.
    """
    if layers is None:
        return
    there = getattr(config, "num_hidden_layers", None)
    if not isinstance(there, int) or getattr(config, "depths", None) is not None:  # stages of several layers each
        raise BadSetting(f"{where!r} does not say how many layers it has: leave layers = {layers} out")
    if not 1 <= layers <= there:
        raise BadSetting(f"{where!r} has {there} layers: layers is 1 to {there}, not {layers}")
    config.num_hidden_layers = layers
    if isinstance(kinds := getattr(config, "layer_types", None), list):
        config.layer_types = kinds[:layers]


def load(transformers: Any, where: str | Path, config: Any, pretrained: bool, seed: int) -> nn.Module:
    """The model of a configuration in fp32: its weights as they are there, or drawn by the seed.

    Raises:
        BadData: weights in another form than safetensors, weights that do not fit, or none that can be had.
    """
    make = _options(transformers, config)
    if not pretrained:
        return _random(transformers, config, make, seed)
    _refuse_other_weights(Path(where))
    if Path(where).is_dir():
        _refuse_lack(transformers, Path(where), config, make)
    return _weights(transformers, where, config, make)


def from_config(transformers: Any, spec: dict[str, Any], seed: int, most: int | None) -> tuple[nn.Module, Any]:
    """The model of a spec with random weights, and its configuration; no folder and no hub is asked.

    Raises:
        BadData: it describes no model, one that needs code of others, or one of more weights than `most`.
    """
    try:
        config = transformers.AutoConfig.for_model(**spec["config"])
        refuse_code_and_giants(config, spec["source"])
        make = _options(transformers, config)
        asked = weights_of(lambda: transformers.AutoModel.from_config(config, trust_remote_code=False, **make))
    except NacreError:
        raise
    except Exception as error:
        raise BadData(f"this spec describes no model ({first_sentence(error)}): was it altered?") from error
    refuse_more(asked, most)
    return _random(transformers, config, make, seed), config


def _class_of(transformers: Any, config: Any) -> Any:
    known = transformers.MODEL_MAPPING
    if type(config) not in known:
        raise BadSetting(
            f"transformers has no bare model for {type(config).__name__}: load it yourself and give the module"
        )
    kind = known[type(config)]
    return kind[0] if isinstance(kind, (tuple, list)) else kind


def _options(transformers: Any, config: Any) -> dict[str, Any]:
    """Leave a pooling layer out where the class allows it: its weights would never be read."""
    kind = _class_of(transformers, config)
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def _refuse_lack(transformers: Any, folder: Path, config: Any, make: dict[str, Any]) -> None:
    """See that a folder's weights can be those of its configuration, before memory is taken for them."""
    try:
        asked = weights_of(lambda: transformers.AutoModel.from_config(config, trust_remote_code=False, **make))
    except Exception as error:
        raise BadData(
            f"{str(folder)!r} has a config.json of which no model can be made ({first_sentence(error)}): is it damaged?"
        ) from error
    there = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    if asked > there:
        raise BadData(
            f"{str(folder)!r} describes a model of {asked:,} weights, and its files have {there:,} bytes: is config.json the "
            "one they were saved with, and are they whole?"
        )


def _weights(transformers: Any, where: str | Path, config: Any, make: dict[str, Any]) -> nn.Module:
    """The pre-trained model in fp32; every weight must come from the checkpoint."""
    from safetensors import SafetensorError

    try:
        with seeded(0):  # transformers initialises what it then overwrites
            net, found = transformers.AutoModel.from_pretrained(
                where, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, ignore_mismatched_sizes=True, **make
            )  # fmt: skip
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        if Path(where).is_dir():
            raise BadData(
                f"the weights in {str(where)!r} cannot be read: {first_sentence(error)}. Fetch them again"
            ) from error
        raise unreachable(where, error) from error
    lacking = [n for n in found["missing_keys"] if not n.endswith(UNUSED)]
    wrong = sorted([*lacking, *(n if isinstance(n, str) else n[0] for n in found["mismatched_keys"])])
    if wrong:
        raise BadData(
            f"the weights of {str(where)!r} lack {len(wrong)} of the model's tensors or have them in another shape, such as "
            f"{wrong[0]!r}: is config.json the one they were saved with? pretrained=False takes the structure with random "
            "weights"
        )
    return net


def _random(transformers: Any, config: Any, make: dict[str, Any], seed: int) -> nn.Module:
    """The model with random weights by the seed."""
    try:
        refuse_more(weights_of(lambda: transformers.AutoModel.from_config(config, trust_remote_code=False, **make)))
        with seeded(seed):
            return transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False, **make)
    except NacreError:
        raise
    except Exception as error:  # of whatever kind: a config.json may say anything
        raise BadData(
            f"no model can be made of this {type(config).__name__} ({first_sentence(error)}): repair its config.json"
        ) from error


def _refuse_other_weights(folder: Path) -> None:
    if folder.is_dir() and not any((folder / name).is_file() for name in WEIGHTS):
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack"))
        raise BadData(
            f"{str(folder)!r} has no model.safetensors{' (only ' + ', '.join(others) + ')' if others else ''}: pickled "
            "weights are not read. Save it again with model.save_pretrained(folder), or give pretrained=False"
        )
