"""What backbones, and the weights and pictures that they read, are refused; over 300 lines because it is a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from nacre.backbones import MLP, Classifier, ConvNet, Pixels, Tapped, backbone, choice, from_spec, tapped
from nacre.core.errors import BadData, BadSetting, MissingExtra, UnknownName
from nacre.heads import GrowingLinear
from tests.errors.row import Place, Row

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
VIT = {"model_type": "vit", "architectures": ["ViTModel"], "patch_size": 8, **SMALL}
TOLD = {"input_size": (3, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}


def vit(at: Place, prepared: Any = None, **changed: Any) -> Path:
    """A folder with the config of a tiny vision transformer, without weights."""
    at.write("vit/config.json", json.dumps({**VIT, **changed}))
    if prepared is not None:
        at.write("vit/preprocessor_config.json", prepared if isinstance(prepared, str) else json.dumps(prepared))
    return at / "vit"


def whole(at: Place, **changed: Any) -> Path:
    """The same with weights."""
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTModel

    net = ViTModel(ViTConfig(patch_size=8, **SMALL), add_pooling_layer=False)
    folder = vit(at, **changed)
    save_file(dict(net.state_dict()), folder / "model.safetensors", {"format": "pt"})
    return folder


def cut(at: Place) -> Path:
    folder = whole(at)
    held = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + held[8:])
    return folder


def pickled(at: Place) -> Path:
    at.write("vit/pytorch_model.bin", b"\x80\x04N.")
    return vit(at)


def timm(at: Place, net: nn.Module | None = None) -> None:
    """A timm that makes one model."""

    def create_model(name: str, **asked: Any) -> nn.Module:
        if net is None:
            raise RuntimeError(f"Unknown model ({name})")
        return net

    made: Any = ModuleType("timm")
    made.create_model, made.data = create_model, SimpleNamespace(resolve_model_data_config=lambda net: TOLD)
    at.patch.setitem(sys.modules, "timm", made)


def of_timm(at: Place, net: nn.Module | None) -> Any:
    timm(at, net)
    return backbone("timm:tiny", pretrained=False)


def half_fetched(at: Place) -> Any:
    """A model of the hub whose config is here, and whose weights cannot be had."""
    import transformers

    at.patch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: transformers.ViTConfig(**SMALL))
    return backbone("nobody/nothing")


def no_timm(at: Place) -> Any:
    at.patch.setitem(sys.modules, "timm", None)
    return backbone("timm:tiny")


def no_memory(at: Place) -> Any:
    def make(widths: Any) -> nn.Module:
        if torch.empty(0).device.type == "cpu":  # not where weights are only counted
            raise RuntimeError("can't allocate memory")
        return nn.Identity()

    at.patch.setattr(choice, "MLP", make)
    return backbone("mlp:64-32")


def spec(**changed: Any) -> Any:
    made = {
        "kind": "huggingface",
        "source": "vit",
        "pool": "first",
        "config": VIT,
        "pixels": {"channels": 3, "size": [32, 32]},
    }
    return from_spec({**made, **changed})


class Idle(nn.Module):
    """Has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


NET = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
PICTURES = torch.zeros(2, 2, 4, 4, dtype=torch.uint8)

NAMES = [
    Row(
        "a backbone that there is not",
        UnknownName,
        "unknown backbone 'glyphvit': did you mean 'glyph-vit'? known are …",
        lambda at: backbone("glyphvit"),
    ),
    Row(
        "a folder that there is not",
        BadData,
        "no folder './gone' (looked for PATH/gone): give the folder of a Hugging Face model",
        lambda at: backbone("./gone"),
    ),
    Row(
        "a hub id that climbs out of its place",
        BadData,
        "no folder 'org/../../etc' (looked for PATH/org/../../etc): give the folder of a Hugging Face model",
        lambda at: backbone("org/../../etc"),
    ),
    Row(
        "a model that is neither here nor on the hub",
        BadData,
        "'nobody/nothing' is no folder here, and could not be fetched from the Hugging Face hub: …. Check "
        "the name and the connection (and that HF_HUB_OFFLINE is not set), or download it elsewhere with `hf "
        "download NAME --local-dir FOLDER` and give the folder",
        lambda at: backbone("nobody/nothing"),
    ),
    Row(
        "weights that cannot be fetched",
        BadData,
        "'nobody/nothing' is no folder here, and could not be fetched from the Hugging Face hub: …. Check "
        "the name and the connection (and that HF_HUB_OFFLINE is not set), or download it elsewhere with `hf "
        "download NAME --local-dir FOLDER` and give the folder",
        half_fetched,
    ),
    Row(
        "a file",
        BadData,
        "'PATH/model.safetensors' is a file: give the folder of a Hugging Face model (config.json, model.safetensors)",
        lambda at: backbone(str(at.write("model.safetensors", b""))),
    ),
    Row(
        "what is said of a module, said of a name",
        BadSetting,
        "layer, width and example are said of a module, not of 'convnet': leave them out",
        lambda at: backbone("convnet", layer="fc"),
    ),
    Row(
        "layers without widths",
        BadSetting,
        "'mlp:64' does not say the widths of its layers: write mlp:INPUT-HIDDEN-..., such as mlp:784-400-400",
        lambda at: backbone("mlp:64"),
    ),
    Row(
        "layers of absurd widths",
        BadSetting,
        "'mlp:64-99999999999' has 2 layers, the widest of 99999999999: at most 1000 of 1048576 are made",
        lambda at: backbone("mlp:64-99999999999"),
    ),
    Row(
        "layers that do not fit into memory",
        BadSetting,
        "mlp with layers of [64, 32] does not fit into memory: make it smaller",
        no_memory,
    ),
    Row(
        "layers of more weights than this machine holds",
        BadSetting,
        "a model of 1,000,001,000,000 weights needs more memory than this machine has, for …: make it smaller",
        lambda at: backbone("mlp:1000000-1000000"),
    ),
    Row(
        "timm without the package",
        MissingExtra,
        "the backbone 'timm:tiny' needs the package 'timm', which is not installed: pip install 'nacre[vision]'",
        no_timm,
    ),
    Row(
        "a model that timm has not",
        BadData,
        "timm cannot make 'tiny': Unknown model (tiny). timm.list_models() names all; pretrained = false "
        "needs no network",
        lambda at: of_timm(at, None),
    ),
    Row(
        "timm told to fetch from elsewhere",
        BadSetting,
        "timm:hf-hub:org/../name names no model of timm, such as timm:vit_tiny_patch16_224; give models from "
        "elsewhere as a folder in Hugging Face form",
        lambda at: backbone("timm:hf-hub:org/../name"),
    ),
    Row(
        "a timm model that reads no pictures",
        BadSetting,
        "timm's 'tiny' does not read pictures of 8x8: …",
        lambda at: of_timm(at, nn.Linear(5, 5)),
    ),
    Row(
        "a timm model that answers with maps",
        BadSetting,
        "timm's 'tiny' answers with (1, 3, 8, 8), not with (rows, width): tap a layer of it",
        lambda at: of_timm(at, nn.Identity()),
    ),
]

FOLDERS = [
    Row(
        "a folder without config.json",
        BadData,
        "'PATH' is a folder, but no Hugging Face model: it has no config.json. Write one with "
        "model.save_pretrained(folder)",
        lambda at: backbone(at.folder),
    ),
    Row(
        "a model of a kind that is not known, or that brings code",
        BadData,
        "'PATH/vit' has a config.json that this transformers does not know, and code of others is not run: "
        "…. Load the model yourself and give the module: backbone(module, layer=...)",
        lambda at: backbone(vit(at, model_type="mine", auto_map={"AutoModel": "mine.Model"})),
    ),
    Row(
        "a config.json that is none",
        BadData,
        "'PATH/vit' has a config.json that this transformers does not know, and code of others is not run: "
        "…. Load the model yourself and give the module: backbone(module, layer=...)",
        lambda at: backbone(at.write("vit/config.json", "{").parent),
    ),
    Row(
        "attention that would be fetched as code",
        BadData,
        "'PATH/vit' asks for the attention 'org/attention', which would be fetched as code, and code of "
        "others is not run: delete attn_implementation from its config.json",
        lambda at: backbone(vit(at, attn_implementation="org/attention")),
    ),
    Row(
        "quantised weights",
        BadData,
        "'PATH/vit' has quantised weights, which are not read: give the model in full precision",
        lambda at: backbone(vit(at, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})),
    ),
    Row(
        "absurd sizes",
        BadData,
        "'PATH/vit' has hidden_size = 1000000000 in its config.json, which no model has: is it damaged?",
        lambda at: backbone(vit(at, hidden_size=10**9), pretrained=False),
    ),
    Row(
        "absurdly many layers",
        BadData,
        "'PATH/vit' has num_hidden_layers = 1000000 in its config.json, which no model has: is it damaged?",
        lambda at: backbone(vit(at, num_hidden_layers=10**6), pretrained=False),
    ),
    Row(
        "a configuration without a model",
        BadSetting,
        "transformers has no bare model for AlignVisionConfig: load it yourself and give the module",
        lambda at: backbone(vit(at, model_type="align_vision_model")),
    ),
    Row(
        "sizes of which no model can be made",
        BadData,
        "no model can be made of this ViTConfig (…): repair its config.json",
        lambda at: backbone(vit(at, patch_size=0), pretrained=False),
    ),
    Row(
        "the same, with weights",
        BadData,
        "'PATH/vit' has a config.json of which no model can be made (…): is it damaged?",
        lambda at: backbone(whole(at, patch_size=0)),
    ),
    Row(
        "pickled weights",
        BadData,
        "'PATH/vit' has no model.safetensors (only pytorch_model.bin): pickled weights are not read. Save it "
        "again with model.save_pretrained(folder), or give pretrained=False",
        lambda at: backbone(pickled(at)),
    ),
    Row(
        "fewer weights than the model has",
        BadData,
        "'PATH/vit' describes a model of … weights, and its files have … bytes: is config.json the one they "
        "were saved with, and are they whole?",
        lambda at: backbone(whole(at, hidden_size=64)),
    ),
    Row(
        "weights cut short or altered",
        BadData,
        "the weights in 'PATH/vit' cannot be read: …. Fetch them again",
        lambda at: backbone(cut(at)),
    ),
    Row(
        "weights of another model",
        BadData,
        "the weights of 'PATH/vit' lack 2 of the model's tensors or have them in another shape, such as "
        "'embeddings.distillation_token': is config.json the one they were saved with? pretrained=False "
        "takes the structure with random weights",
        lambda at: backbone(whole(at, model_type="deit")),
    ),
    Row(
        "channels that it was not trained with",
        BadSetting,
        "'PATH/vit' was trained with 3 channels, not 1: leave channels out, pictures are adapted",
        lambda at: backbone(vit(at), channels=1),
    ),
    Row(
        "pictures that it does not answer to",
        BadSetting,
        "'PATH/vit' (ViTModel) does not answer to pictures of 4x4 with features: …. Give another size, or "
        "load the model yourself and tap a layer of it: backbone(module, layer=...)",
        lambda at: backbone(vit(at), size=4, pretrained=False),
    ),
    Row(
        "preparation that makes no sense",
        BadData,
        "PATH/vit/preprocessor_config.json does not say how pictures are prepared (…): repair or delete it",
        lambda at: backbone(vit(at, {"image_mean": "grey"}), pretrained=False),
    ),
    Row(
        "preparation to absurd sizes",
        BadSetting,
        "a size is a side in pixels or (height, width), each at least 1, of at most 2,097,152 pixels, not "
        "(100000000, 100000000)",
        lambda at: backbone(vit(at, {"size": 10**8}), pretrained=False),
    ),
]

SPECS = [
    Row(
        "a spec that lacks something",
        BadSetting,
        "this spec of mlp describes no backbone (KeyError: 'pixels'): was it altered?",
        lambda at: from_spec({"kind": "mlp", "widths": [64, 32]}),
    ),
    Row(
        "a spec of a module given in Python",
        BadSetting,
        "from_spec makes convnet, huggingface, huggingface-text, mlp, timm, but not this backbone: it was made "
        "of a module given in Python. Make it as before, with backbone(module, ...), and load its weights",
        lambda at: from_spec(backbone(nn.Linear(4, 2), width=2).spec),
    ),
    Row(
        "a spec of another kind",
        BadSetting,
        "from_spec makes convnet, huggingface, huggingface-text, mlp, timm, but not this backbone: kind "
        "'os:system' is none of them. Make it as before, with backbone(module, ...), and load its weights",
        lambda at: from_spec({"kind": "os:system"}),
    ),
    Row(
        "a spec of no model",
        BadData,
        "this spec describes no model (…): was it altered?",
        lambda at: spec(config={"model_type": "vit", "hidden_size": "wide"}),
    ),
    Row(
        "a spec of absurd sizes",
        BadData,
        "'vit' has intermediate_size = 100000000 in its config.json, which no model has: is it damaged?",
        lambda at: spec(config={**VIT, "intermediate_size": 10**8}),
    ),
    Row(
        "a spec of more weights than there are",
        BadData,
        "this spec describes a model of 2,080 weights, and there are 100 for it: was it altered?",
        lambda at: from_spec(backbone("mlp:64-32").spec, most=100),
    ),
]

MODULES = [
    Row(
        "a layer that there is not",
        UnknownName,
        "unknown layer of Sequential '3': known are …",
        lambda at: tapped(NET, "3", width=4),
    ),
    Row(
        "a layer whose width nobody says",
        BadSetting,
        "how wide is layer '1' of Sequential? Give width=..., or example=... (an input to run once)",
        lambda at: tapped(NET, "1"),
    ),
    Row(
        "a way to pool that there is not",
        BadSetting,
        "tokens are pooled by 'auto', 'mean' or 'first', not 'max'",
        lambda at: Tapped(NET, "1", pool="max"),
    ),  # pyright: ignore
    Row(
        "a layer that does not run",
        BadData,
        "layer 'idle' did not run for this input: tap one that does",
        lambda at: tapped(Idle(), "idle", width=4)(torch.zeros(1, 8)),
    ),
    Row(
        "a layer that puts out no features",
        BadData,
        "layer '' puts out (2,); features are made of (rows, width), (rows, tokens, width) or (rows, width, "
        "height, width of the map): tap another layer",
        lambda at: tapped(NET, "", width=2)(torch.zeros(8)),
    ),
    Row(
        "features of another width than was said",
        BadData,
        "layer '1' gives features of width 4, but width=5 was said: say the other",
        lambda at: tapped(NET, "1", width=5)(torch.zeros(1, 8)),
    ),
    Row(
        "features whose width nobody knows",
        BadSetting,
        "how wide are the features of ReLU? Neither the body (.width) nor the head (.in_features) says so: "
        "give Classifier(..., width=...)",
        lambda at: Classifier(nn.ReLU(), nn.Identity()),
    ),
    Row(
        "a head of another width",
        BadSetting,
        "the head reads 16 features, the body gives 32: make the head 32 wide",
        lambda at: Classifier(backbone("mlp:64-32"), GrowingLinear(16)),
    ),
    Row(
        "an mlp without a hidden layer",
        BadSetting,
        "an mlp needs the width of its input and of at least one hidden layer, got '64': write "
        "mlp:INPUT-HIDDEN-HIDDEN, such as mlp:784-400-400 for 28x28 grey pictures",
        lambda at: MLP((64,)),
    ),
    Row(
        "rows of other width than an mlp reads",
        BadData,
        "this mlp reads 64 numbers a row, the rows have 63: write mlp:63-..., or let Pixels(channels=..., "
        "size=...) bring pictures to one size",
        lambda at: MLP((64, 32))(torch.zeros(2, 63)),
    ),
    Row(
        "a convnet without blocks",
        BadSetting,
        "a convnet needs pictures with channels and blocks with widths, got 3 channels and widths []: write "
        "convnet:32-64-128",
        lambda at: ConvNet(3, ()),
    ),
    Row(
        "rows that a convnet does not read",
        BadData,
        "this convnet reads pictures (rows, 3, height, width), not (2, 64): let Pixels(channels=3) adapt "
        "them, or make the net with channels=64",
        lambda at: ConvNet(3)(torch.zeros(2, 64)),
    ),
    Row(
        "channels that there are not",
        BadSetting,
        "Pixels makes 1 channel (grey) or 3 (RGB), not 4: give 1, 3 or None",
        lambda at: Pixels(channels=4),
    ),
    Row(
        "a size that is none",
        BadSetting,
        "a size is a side in pixels or (height, width), each at least 1, of at most 2,097,152 pixels, not 0",
        lambda at: Pixels(size=0),
    ),
    Row(
        "two means for three channels",
        BadSetting,
        "2 values of mean for 3 channels: give one, or one for each",
        lambda at: Pixels(channels=3, mean=[0.5, 0.5]),
    ),
    Row(
        "a standard deviation of 0",
        BadSetting,
        "std divides pixels, so it must be above 0, not 0.0",
        lambda at: Pixels(std=0.0),
    ),
    Row(
        "a mean that is no number",
        BadSetting,
        "mean and std are finite numbers, not nan and None",
        lambda at: Pixels(mean=float("nan")),
    ),
    Row(
        "pixels of another type",
        BadData,
        "pixels are uint8 in 0..255 or float in 0..1, not torch.int64: convert them with .to(torch.uint8)",
        lambda at: Pixels()(PICTURES.long()),
    ),
    Row(
        "rows that are no pictures",
        BadData,
        "pictures have the shape (rows, channels, height, width), not (4, 4): add what is missing, such as "
        "x[:, None] for grey pictures without channels",
        lambda at: Pixels(size=8)(PICTURES[0, 0]),
    ),
    Row(
        "pictures of other channels",
        BadData,
        "pictures of shape (2, 2, 4, 4) have 2 channels; only 1 (grey) and 3 (RGB) can be turned into 3: "
        "channels come before height and width, so pictures with channels last need x.permute(0, 3, 1, 2)",
        lambda at: Pixels(channels=3)(PICTURES),
    ),
    Row(
        "pictures of other channels than their mean",
        BadData,
        "mean or std has 3 channels, the pictures 2: give one number, or one a channel",
        lambda at: Pixels(mean=[0.5] * 3)(PICTURES),
    ),
]
