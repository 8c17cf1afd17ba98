"""Train `glyph-vit`, the small vision transformer that ships with the package, on distorted base glyphs.

    python scripts/pretrain_glyph_vit.py --steps 7400 --threads 1 --out src/nacre/backbones/glyph_vit

The classes of the glyph stream are not among its classes. The distortion starts weak and reaches full strength after
22 % of the steps; runs at full strength from the start had not left chance when they were stopped. The result is a
Hugging Face folder (`transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False)`) whose feature is the CLS
token of `last_hidden_state`. Steps, not seconds, decide when it ends, so the same seed, versions and kind of processor
make the same weights again.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from nacre.core.dice import mix
from nacre.data import glyphs
from nacre.data.glyphs import GlyphMasks, base_glyphs, distort

BATCH, RATE, BETAS, DECAY = 128, 1.5e-3, (0.9, 0.98), 0.05
WARM_UP, RAMP, SMOOTHING, CLIP = 150, 0.22, 0.1, 1.0
POSITION_SPREAD = 0.3  # standard deviation of the position embeddings at the start
SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.08,
}
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5],
    "image_std": [0.3125],
    "do_convert_rgb": False,
}


def main() -> None:
    """Train, measure, write."""
    args = read_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(mix(args.seed, "glyph-vit", "weights"))
    base = base_glyphs()
    model = new_model().to(args.device)
    head = nn.Linear(model.config.hidden_size, len(base.names)).to(args.device)
    steps = args.steps or steps_in(args.minutes, model, head, base, args.device)
    print(f"{len(base.names)} classes, {len(base.masks)} masks, {steps} steps of {BATCH}", flush=True)
    began = time.perf_counter()
    curve = train(model, head, base, steps, args.seed, args.device)
    seconds = time.perf_counter() - began
    final = accuracy(model, head, base, args.seed, args.device, pictures=20 * len(base.names))
    record = {
        "classes": len(base.names),
        "masks": len(base.masks),
        "final_validation_accuracy": round(final, 4),
        "final_validation_pictures": 20 * len(base.names),
        "seed": args.seed,
        "steps": steps,
        "pictures": steps * BATCH,
        "seconds": round(seconds),
        "threads": args.threads,
        "device": args.device,
        "recipe": recipe(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **glyphs.versions(),
        },
        "curve": curve,
    }
    write(model, record, args.out)
    print(f"final validation accuracy {final:.4f} in {seconds:.0f} s", flush=True)


def read_arguments() -> argparse.Namespace:
    """What to train, for how long, and where to write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, help="optimizer steps of 128 pictures")
    length.add_argument("--minutes", type=float, help="measure the speed first and choose the steps from it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made if missing")
    return parser.parse_args()


def new_model() -> ViTModel:
    """The untrained backbone: 1.2 M parameters, wide initial weights, wide position embeddings."""
    model = ViTModel(ViTConfig(**SHAPE), add_pooling_layer=False)
    nn.init.normal_(model.embeddings.position_embeddings, std=POSITION_SPREAD)
    return model


def features(model: ViTModel, pictures: Tensor) -> Tensor:
    """CLS features (rows, 128) of uint8 pictures (rows, 1, 32, 32)."""
    return model(pixel_values=pictures.float().div_(255).sub_(0.5).div_(0.3125)).last_hidden_state[:, 0]


def train(
    model: ViTModel, head: nn.Linear, base: GlyphMasks, steps: int, seed: int, device: str, moments: int = 40
) -> list[dict[str, float]]:
    """Train in place; return the curve: step, seconds, running loss and validation accuracy at some moments."""
    dice = torch.Generator().manual_seed(mix(seed, "glyph-vit", "pictures"))
    optimizer = torch.optim.AdamW(parameter_groups(model, head), lr=RATE, betas=BETAS)
    weights = [*model.parameters(), *head.parameters()]
    began, running, curve = time.perf_counter(), math.log(len(base.names)), []
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_shape(step, steps)
        strength = min(1.0, 0.1 + 0.9 * step / (RAMP * steps))
        rows = torch.randint(len(base.masks), (BATCH,), generator=dice)
        pictures = distort(base.masks[rows].to(device), dice, strength, invert=0.0)
        logits = head(features(model, pictures))
        loss = F.cross_entropy(logits, base.classes[rows].to(device), label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
        if step % 10 == 0:
            running += 0.1 * (loss.item() - running)
        if moments and (step + 1) % max(1, steps // moments) == 0:
            seconds = time.perf_counter() - began
            score = accuracy(model, head, base, seed, device, pictures=2 * len(base.names))
            curve.append(
                {"step": step + 1, "seconds": round(seconds), "loss": round(running, 3), "accuracy": round(score, 3)}
            )
            print(f"step {step + 1:6} {seconds:6.0f} s  loss {running:.3f}  validation {score:.3f}", flush=True)
    return curve


def parameter_groups(model: ViTModel, head: nn.Linear) -> list[dict[str, object]]:
    """Weight decay on matrices only: not on biases, norms, the CLS token or the position embeddings."""
    matrices, rest = [], []
    for name, weight in (*model.named_parameters(), *head.named_parameters()):
        plain = weight.ndim < 2 or name.endswith(("cls_token", "position_embeddings"))
        (rest if plain else matrices).append(weight)
    return [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]


def rate_shape(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


@torch.inference_mode()
def accuracy(model: ViTModel, head: nn.Linear, base: GlyphMasks, seed: int, device: str, pictures: int) -> float:
    """Share of right answers over new pictures at full strength, as many of each class."""
    dice = torch.Generator().manual_seed(mix(seed, "glyph-vit", "validation"))
    counts = base.classes.bincount()
    classes = torch.arange(pictures) % len(base.names)
    rows = (counts.cumsum(0) - counts)[classes] + (torch.rand(pictures, generator=dice) * counts[classes]).long()
    right = 0
    model.eval()
    for part in rows.split(500):
        answers = head(features(model, distort(base.masks[part].to(device), dice, invert=0.0))).argmax(1).cpu()
        right += int((answers == base.classes[part]).sum())
    model.train()
    return right / pictures


def steps_in(minutes: float, model: ViTModel, head: nn.Linear, base: GlyphMasks, device: str) -> int:
    """How many steps fit, by the speed of 40 steps of copies of the model and its head."""
    model, head = copy.deepcopy(model), copy.deepcopy(head)
    train(model, head, base, 5, 0, device, moments=0)
    began = time.perf_counter()
    train(model, head, base, 40, 0, device, moments=0)
    return max(WARM_UP + 1, round(minutes * 60 * 40 / (time.perf_counter() - began)))


def recipe() -> dict[str, object]:
    """The settings that every run shares."""
    return {
        "optimizer": "AdamW",
        "rate": RATE,
        "betas": BETAS,
        "weight_decay": f"{DECAY} on matrices, 0 elsewhere",
        "batch": BATCH,
        "schedule": f"{WARM_UP} steps of linear warm-up, half a cosine to 0",
        "loss": f"cross-entropy, label smoothing {SMOOTHING}",
        "clip": CLIP,
        "distortion": f"strength 0.1 to 1 over the first {RAMP:.0%} of the steps, nothing inverted",
        "position_embeddings": f"normal, standard deviation {POSITION_SPREAD}",
        "feature": "CLS token of last_hidden_state",
    }


def write(model: ViTModel, record: dict[str, object], out: Path) -> None:
    """Write config, fp16 weights, preprocessing and the record of the training."""
    half = {name: weight.detach().cpu().half() for name, weight in model.state_dict().items()}
    model.save_pretrained(out, state_dict=half)
    (out / "model.safetensors").chmod(0o644)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n", encoding="utf-8")
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
