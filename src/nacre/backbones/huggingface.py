"""Vision models in Hugging Face form: a folder, or a name on the hub.

Weights are read from safetensors only and code that comes with a model is never run. The image processors of transformers
need torchvision, so size, mean and std are read from `preprocessor_config.json` here; pictures are resized to the size the
model was trained with, never cropped.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting, NacreError
from ..core.model import evaluating
from .body import Body, refuse_more, seeded, weights_of
from .huggingface_config import first_sentence, pixels_of, read_config, refuse_code_and_giants, sides_of, unreachable
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
        config = read_config(transformers, where)
        side = sides_of(size) if size is not None else None
        if side is not None and not pretrained and getattr(config, "image_size", None) is not None:
            config.image_size = list(side) if len(set(side)) > 1 else side[0]
        pixels = pixels_of(transformers, where, config, channels, side, pretrained)
        make = _options(transformers, config)
        if pretrained:
            _refuse_other_weights(Path(where))
            if Path(where).is_dir():
                _refuse_lack(transformers, Path(where), config, make)
            net = _weights(transformers, where, config, make)
        else:
            net = _random(transformers, config, make, seed)
        return _body(net, config, pixels, "auto", str(name or where))


def from_huggingface_spec(spec: dict[str, Any], seed: int = 0, most: int | None = None) -> Body:
    """The same structure again, with random weights, from the spec alone: no folder and no hub is asked.

    Raises:
        BadData: it describes no model, one that needs code of others, or one of more weights than `most`.
    """
    with _quiet() as transformers:
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
        net = _random(transformers, config, make, seed)
        return _body(net, config, Pixels(**spec["pixels"]), spec["pool"], spec["source"])


def _body(net: nn.Module, config: Any, pixels: Pixels, pool: str, source: str) -> Body:
    """Wrap a model, and learn its width from one empty picture."""
    assert pixels.size is not None
    takes = "interpolate_pos_encoding" in inspect.signature(net.forward).parameters
    trained = getattr(config, "image_size", None)
    module = HuggingFace(net, pool, takes and trained is not None and sides_of(trained) != pixels.size)
    try:
        with evaluating(module), torch.no_grad():
            features = module(torch.zeros(1, pixels.channels or 3, *pixels.size))
    except Exception as error:
        raise BadSetting(
            f"{source!r} ({type(net).__name__}) does not answer to pictures of {pixels.size[0]}x{pixels.size[1]} with "
            f"features: {first_sentence(error)}. Give another size, or load the model yourself and tap a layer of it: "
            "backbone(module, layer=...)"
        ) from error
    module.width = features.shape[-1]
    settings = json.loads(config.to_json_string(use_diff=False))
    settings = {k: v for k, v in settings.items() if k not in ("_name_or_path", "transformers_version", "dtype")}
    spec = {
        "kind": "huggingface", "source": source, "pool": module.pool, "config": settings, "pixels": pixels.settings
    }  # fmt: skip
    return Body(module.eval(), pixels, module.width, spec)


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
