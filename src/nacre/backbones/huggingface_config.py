"""What a model in Hugging Face form says of itself: its `config.json`, and how its pictures are prepared.

Nothing that it says makes code of others run, or takes memory that no model needs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..core.errors import BadData, BadSetting, shown
from ..core.files import first_line
from .pixels import Pixels

PLAIN_ATTENTION = (None, "eager", "sdpa")  # any other is fetched, or needs another package
LIMITS = (("layers", 1000), ("depth", 1000), ("blocks", 1000), ("stages", 1000), ("image_size", 8192))
MOST = 10**7  # what another number of a configuration can be; more is damage, or meant to fill a memory


def read_config(transformers: Any, where: str | Path) -> Any:
    """The model's configuration.

    Raises:
        BadData: it cannot be had or read, or asks for code of others.
    """
    if Path(where).is_dir() and not (Path(where) / "config.json").is_file():
        raise BadData(
            f"{str(where)!r} is a folder, but no Hugging Face model: it has no config.json. "
            "Write one with model.save_pretrained(folder)"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # of whatever kind: a config.json may say anything
        if isinstance(error, OSError) and not Path(where).is_dir():
            raise unreachable(where, error) from error
        raise BadData(
            f"{str(where)!r} has a config.json that this transformers does not know, and code of others is not run: "
            f"{first_sentence(error)}. Load the model yourself and give the module: backbone(module, layer=...)"
        ) from error
    refuse_code_and_giants(config, str(where))
    return config


def refuse_code_and_giants(config: Any, where: str) -> None:
    """See that a configuration asks for no code of others, and for no model that nobody has.

    Raises:
        BadData: it does.
    """
    told: dict[str, Any] = config.to_dict()
    attention = getattr(config, "_attn_implementation", None)
    if attention not in PLAIN_ATTENTION:
        raise BadData(
            f"{where!r} asks for the attention {shown(attention)}, which would be fetched as code, and code of others is not "
            "run: delete attn_implementation from its config.json"
        )
    if told.get("quantization_config"):
        raise BadData(f"{where!r} has quantised weights, which are not read: give the model in full precision")
    for key, value in told.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and abs(number) > next((most for word, most in LIMITS if word in key), MOST):
                raise BadData(
                    f"{where!r} has {key} = {shown(value)} in its config.json, which no model has: is it damaged?"
                )


def plain(config: Any) -> dict[str, Any]:
    """A configuration as plain values, ready for JSON, of which the same can be made again."""
    told = json.loads(config.to_json_string(use_diff=False))
    return {k: v for k, v in told.items() if k not in ("_name_or_path", "transformers_version", "dtype")}


def file_of(transformers: Any, where: str | Path, name: str) -> Path | None:
    """A file beside a model, in its folder or on the hub; None where there is none."""
    if Path(where).is_dir():
        path = Path(where) / name
        return path if path.is_file() else None
    found = transformers.utils.cached_file(
        str(where), name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return Path(found) if found else None


def unreachable(where: str | Path, error: Exception) -> BadData:
    """The error for a model that is neither here nor to be had."""
    return BadData(
        f"{str(where)!r} is no folder here, and could not be fetched from the Hugging Face hub: {first_sentence(error)}. "
        "Check the name and the connection (and that HF_HUB_OFFLINE is not set), or download it elsewhere with "
        "`hf download NAME --local-dir FOLDER` and give the folder"
    )


def pixels_of(
    transformers: Any,
    where: str | Path,
    config: Any,
    channels: int | None,
    size: tuple[int, int] | None,
    pretrained: bool,
) -> Pixels:
    """What the model was trained to see, by `preprocessor_config.json`; without one, mean and std 0.5."""
    read = getattr(config, "num_channels", None) or 3
    if channels is not None and channels != read:
        if pretrained:
            raise BadSetting(
                f"{str(where)!r} was trained with {read} channels, not {channels}: leave channels out, pictures are adapted"
            )
        config.num_channels = read = channels
    path = file_of(transformers, where, "preprocessor_config.json")
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        return _told_pixels(told, config, read, size)
    except BadSetting:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise BadData(
            f"{path or where} does not say how pictures are prepared ({type(error).__name__}: {error}): repair or delete it"
        ) from error


def _told_pixels(told: dict[str, Any], config: Any, read: int, size: tuple[int, int] | None) -> Pixels:
    mean = told.get("image_mean", 0.5) if told.get("do_normalize", True) else None
    std = told.get("image_std", 0.5) if told.get("do_normalize", True) else None
    scale = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    if abs(scale - 1) > 1e-6:  # (255 x scale - mean) / std = (x - mean / scale) / (std / scale), with x in 0..1
        mean = [m / scale for m in _channelwise(0.0 if mean is None else mean, read)]
        std = [s / scale for s in _channelwise(1.0 if std is None else std, read)]
    elif mean is not None:
        mean, std = _channelwise(mean, read), _channelwise(std, read)
    crop = told.get("crop_size") if told.get("do_center_crop") else None
    side = size or sides_of(crop or told.get("size") or getattr(config, "image_size", None) or 224)
    return Pixels(read, side, mean, std)


def _channelwise(values: Any, channels: int) -> list[float]:
    """One value a channel: three values of a grey model become their mean, one is repeated."""
    values = [float(v) for v in values] if isinstance(values, (list, tuple)) else [float(values)]
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def sides_of(size: Any) -> tuple[int, int]:
    """(height, width) of the ways in which sizes are written down."""
    if isinstance(size, dict):
        side = size.get("shortest_edge") or size.get("longest_edge")
        size = (size.get("height", side), size.get("width", side))
    if isinstance(size, int):
        return size, size
    return int(size[0]), int(size[-1])


def first_sentence(error: Exception) -> str:
    """The first sentence of what an error of transformers says."""
    return re.split(r"(?<=\.) ", first_line(error), maxsplit=1)[0].rstrip(".:")
