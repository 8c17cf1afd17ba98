"""The Hugging Face Trainer on three tasks of two topics each: MIST, EWC and ER around its steps.

Trainer, model and data are the user's; what Nacre adds is `method=` and `task=`. Run it: `python examples/hf_trainer.py`
"""

from __future__ import annotations

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainingArguments

import nacre
from nacre.integrations.transformers import ContinualTrainer
from nacre.methods import ER, EWC, MIST


def texts(topics: tuple[int, int], rows: int, seed: int) -> list[dict]:
    """Six words a text, as a tokenizer numbers them: four of its topic's four, two of all 24."""
    dice = torch.Generator().manual_seed(seed)
    labels, own = torch.tensor(topics).repeat(rows // 2), torch.randint(4, (rows, 4), generator=dice)
    words = torch.cat([1 + 4 * labels[:, None] + own, 1 + torch.randint(24, (rows, 2), generator=dice)], dim=1)
    return [{"input_ids": w, "label": y} for w, y in zip(words, labels, strict=True)]


def right(told) -> dict[str, float]:
    """The accuracy."""
    return {"accuracy": float((told.predictions.argmax(1) == told.label_ids).mean())}


def run(folder: str, seed: int = 0) -> tuple[dict[int, list[float]], list[str]]:
    """Learn the tasks; each one's accuracy after every task since, and what moved though it was to rest."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=25, num_labels=6, **sizes))
    mist = MIST(objective_of="stage", select=0.5, drop=0.0, fade=1.0, free="bias|norm|^classifier")
    method, kept, leaks = nacre.compose(mist, EWC(strength=0.01, rows=32), ER(rows=16)), {}, []
    for task, topics in enumerate([(0, 1), (2, 3), (4, 5)]):
        args = TrainingArguments(
            f"{folder}/task{task}", per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=6,
            learning_rate=5e-3, save_strategy="epoch", report_to=[], disable_tqdm=True, seed=seed, use_cpu=True,
        )  # fmt: skip
        before, rows = {n: p.detach().clone() for n, p in model.named_parameters()}, texts(topics, 96, seed=task)
        trainer = ContinualTrainer(model, args, train_dataset=rows, compute_metrics=right, method=method, task=task)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        for n, p in model.named_parameters():
            leaks += [n] if n in mist.chosen and not torch.equal(p[~mist.chosen[n]], before[n][~mist.chosen[n]]) else []
        for old in range(task + 1):
            told = trainer.evaluate(texts((2 * old, 2 * old + 1), 64, seed=100 + old))
            kept.setdefault(old, []).append(told["eval_accuracy"])
    for task, scores in kept.items():
        print(f"task {task}: {', '.join(f'{s:.0%}' for s in scores)}, forgotten {scores[0] - scores[-1]:.0%}")
    print(f"moved though resting: {leaks or 'nothing'}")
    return kept, leaks


if __name__ == "__main__":
    run(tempfile.mkdtemp())
