"""Vision models in Hugging Face form: a folder, or a name on the hub.

Weights are read from safetensors only and code that comes with a model is never run. The image processors of transformers
need torchvision, so size, mean and std are read from `preprocessor_config.json` here; pictures are resized to the size the
model was trained with, never cropped.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting
from ..core.model import evaluating
from .body import Body, seeded
from .pixels import Pixels

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # a model with one of these answers with token 0
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
UNUSED = ("mask_token",)  # parameters that only pre-training reads: a checkpoint may lack them


class HuggingFace(nn.Module):
    """Features of a Hugging Face vision model; its weights are named `net....`.

    Args:
        net: A model that answers `pixel_values` with an object that has `last_hidden_state`.
        pool: `"first"` token, the model's own `"pooler"`, the `"mean"` over tokens or positions; `"auto"` is the first
            token where the model has a class token, else its pooler, else the mean.
        interpolate: Ask the model to stretch its position embeddings to the size of the pictures.
    """

    def __init__(self, net: nn.Module, pool: str = "auto", interpolate: bool = False):
        super().__init__()
        self.net, self.interpolate = net, interpolate
        if pool == "auto" and any(n.rsplit(".", 1)[-1] in CLASS_TOKENS for n, _ in net.named_parameters()):
            pool = "first"
        self.pool, self.width = pool, 0

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, width) of pictures (rows, channels, height, width)."""
        asked = {"interpolate_pos_encoding": True} if self.interpolate else {}
        answer: Any = self.net(pixel_values=x, **asked)
        pooled: Any = getattr(answer, "pooler_output", None)
        if self.pool == "pooler" or (self.pool == "auto" and pooled is not None):
            return pooled.flatten(1)
        hidden = answer.last_hidden_state  # (rows, tokens, width) or (rows, width, height, width)
        if self.pool == "first":
            return hidden[:, 0]
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def huggingface(
    where: str | Path,
    *,
    seed: int = 0,
    pretrained: bool = True,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    name: str | None = None,
) -> Body:
    """Load a vision model from a folder or the hub; weights become fp32, in eval mode.

    Args:
        where: A folder with `config.json`, or an id such as `facebook/dinov2-small`.
        seed: Seeds the weights where `pretrained` is False.
        pretrained: False takes the structure only, with random weights.
        channels: Must be what the model reads where it is pre-trained.
        size: Side of the pictures; None takes what the model was trained with.
        name: What the spec calls it; None = `where`.

    Raises:
        BadData: no such folder or id, weights in another form than safetensors, or weights that do not fit.
        BadSetting: no vision model, or settings that do not fit it.
    """
    with _quiet() as transformers:
        config = _config(transformers, where)
        side = _sides(size) if size is not None else None
        if side is not None and not pretrained and getattr(config, "image_size", None) is not None:
            config.image_size = list(side) if len(set(side)) > 1 else side[0]
        pixels = _pixels(transformers, where, config, channels, side, pretrained)
        make = _options(transformers, config)
        if pretrained:
            _refuse_other_weights(Path(where))
            net = _weights(transformers, where, config, make)
        else:
            net = _random(transformers, config, make, seed)
        return _body(net, config, pixels, "auto", str(name or where))


def from_huggingface_spec(spec: dict[str, Any], seed: int = 0) -> Body:
    """The same structure again, with random weights, from the spec alone: no folder and no hub is asked."""
    with _quiet() as transformers:
        config = transformers.AutoConfig.for_model(**spec["config"])
        net = _random(transformers, config, _options(transformers, config), seed)
        return _body(net, config, Pixels(**spec["pixels"]), spec["pool"], spec["source"])


def _body(net: nn.Module, config: Any, pixels: Pixels, pool: str, source: str) -> Body:
    """Wrap a model, and learn its width from one empty picture."""
    assert pixels.size is not None
    takes = "interpolate_pos_encoding" in inspect.signature(net.forward).parameters
    trained = getattr(config, "image_size", None)
    module = HuggingFace(net, pool, takes and trained is not None and _sides(trained) != pixels.size)
    try:
        with evaluating(module), torch.no_grad():
            features = module(torch.zeros(1, pixels.channels or 3, *pixels.size))
    except Exception as error:
        raise BadSetting(
            f"{source!r} ({type(net).__name__}) does not answer to pictures of {pixels.size[0]}x{pixels.size[1]} with "
            f"features: {_first_line(error)}. Give another size, or load the model yourself and tap a layer of it: "
            "backbone(module, layer=...)"
        ) from error
    module.width = features.shape[-1]
    settings = json.loads(config.to_json_string(use_diff=False))
    settings = {k: v for k, v in settings.items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    spec = {
        "kind": "huggingface", "source": source, "pool": module.pool, "config": settings, "pixels": pixels.settings
    }  # fmt: skip
    return Body(module.eval(), pixels, module.width, spec)


def _config(transformers: Any, where: str | Path) -> Any:
    """The model's configuration, or an error that says what to do."""
    if Path(where).is_dir() and not (Path(where) / "config.json").is_file():
        raise BadData(
            f"{str(where)!r} is a folder, but no Hugging Face model: it has no config.json. "
            "Write one with model.save_pretrained(folder)"
        )
    try:
        return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    except OSError as error:
        raise _unreachable(where, error) from error
    except (ValueError, KeyError) as error:
        raise BadData(
            f"{str(where)!r} has a config.json that this transformers does not know, and code of others is not run: "
            f"{_first_line(error)}. Load the model yourself and give the module: backbone(module, layer=...)"
        ) from error


def _unreachable(where: str | Path, error: Exception) -> BadData:
    return BadData(
        f"{str(where)!r} is no folder here, and could not be fetched from the Hugging Face hub: {_first_line(error)} "
        "Check the name and the connection (and that HF_HUB_OFFLINE is not set), or download it elsewhere with "
        "`hf download NAME --local-dir FOLDER` and give the folder"
    )


def _options(transformers: Any, config: Any) -> dict[str, Any]:
    """Leave a pooling layer out where the class allows it: its weights would never be read."""
    known = transformers.MODEL_MAPPING
    if type(config) not in known:
        raise BadSetting(
            f"transformers has no bare model for {type(config).__name__}: load it yourself and give the module"
        )
    kind = known[type(config)]
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind
    reads = inspect.signature(kind.forward).parameters
    if "pixel_values" not in reads or "input_ids" in reads:
        raise BadSetting(
            f"{kind.__name__} is no vision model: it reads {', '.join(list(reads)[1:3])}, not pixel_values alone. "
            "Give a vision model such as ViT, DINOv2, ConvNeXt or Swin"
        )
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind.__init__).parameters else {}


def _weights(transformers: Any, where: str | Path, config: Any, make: dict[str, Any]) -> nn.Module:
    """The pre-trained model in fp32; every weight must come from the checkpoint."""
    from safetensors import SafetensorError

    try:
        with seeded(0):  # transformers initialises what it then overwrites
            net, found = transformers.AutoModel.from_pretrained(
                where, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, **make
            )  # fmt: skip
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        if Path(where).is_dir():
            raise BadData(
                f"the weights in {str(where)!r} cannot be read: {_first_line(error)}. Fetch them again"
            ) from error
        raise _unreachable(where, error) from error
    wrong = sorted(n for n in (*found["missing_keys"], *found["mismatched_keys"]) if not str(n).endswith(UNUSED))
    if wrong:
        raise BadData(
            f"the weights of {str(where)!r} lack {len(wrong)} of the model's tensors, such as {wrong[0]!r}: is config.json "
            "the one they were saved with? pretrained=False takes the structure with random weights"
        )
    return net


def _random(transformers: Any, config: Any, make: dict[str, Any], seed: int) -> nn.Module:
    """The model with random weights by the seed."""
    with seeded(seed):
        return transformers.AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False, **make)


def _refuse_other_weights(folder: Path) -> None:
    if folder.is_dir() and not any((folder / name).is_file() for name in WEIGHTS):
        others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack"))
        raise BadData(
            f"{str(folder)!r} has no model.safetensors{' (only ' + ', '.join(others) + ')' if others else ''}: pickled "
            "weights are not read. Save it again with model.save_pretrained(folder), or give pretrained=False"
        )


def _pixels(
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
    path = Path(where) / "preprocessor_config.json"
    if not Path(where).is_dir():
        found = transformers.utils.cached_file(
            str(where),
            path.name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        path = Path(found) if found else path
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return _told_pixels(told, config, read, size)
    except BadSetting:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise BadData(
            f"{path} does not say how pictures are prepared ({type(error).__name__}: {error}): repair or delete it"
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
    side = size or _sides(crop or told.get("size") or getattr(config, "image_size", None) or 224)
    return Pixels(read, side, mean, std)


def _channelwise(values: Any, channels: int) -> list[float]:
    """One value a channel: three values of a grey model become their mean, one is repeated."""
    values = [float(v) for v in values] if isinstance(values, (list, tuple)) else [float(values)]
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def _sides(size: Any) -> tuple[int, int]:
    """(height, width) of the ways in which sizes are written down."""
    if isinstance(size, dict):
        side = size.get("shortest_edge") or size.get("longest_edge")
        size = (size.get("height", side), size.get("width", side))
    if isinstance(size, int):
        return size, size
    return int(size[0]), int(size[-1])


def _first_line(error: Exception) -> str:
    return re.split(r"\n|(?<=\.) ", str(error).strip() or type(error).__name__, maxsplit=1)[0]


@contextmanager
def _quiet() -> Iterator[Any]:
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
