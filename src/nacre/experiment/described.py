"""What a record says of a config that is run: its parts with all their settings, their papers, and versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from typing import Any

import torch

from ..catalogue import find
from ..core.optim import OPTIMIZERS
from ..core.state import settings
from .config import Config
from .trial import device_of, method

PACKAGES = ("nacre", "torch", "numpy", "transformers", "scikit-learn", "matplotlib")


def parts_of(config: Config) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, str]]:
    """Each stage with all settings of its parts; the papers of its methods; how sure we are of them."""
    stages, papers, fidelity = [], {}, {}
    for table, said in zip(config.stage, config.to_dict()["stage"], strict=True):
        made = [method(t, config.run.seeds[0]) for t in table.methods]
        full: dict[str, Any] = {
            "methods": [{"name": t["name"], **settings(m)} for t, m in zip(table.methods, made, strict=True)]
        }
        if table.optimizer is not None:
            known = signature(OPTIMIZERS[table.optimizer["name"]]).parameters
            defaults = {n: p.default for n, p in known.items() if p.default is not p.empty and p.default is not None}
            full["optimizer"] = {**defaults, **table.optimizer}
        stages.append({**said, **full})
        for t in table.methods:
            entry = find("method", t["name"])
            if entry.paper is not None:
                papers[entry.name], fidelity[entry.name] = str(entry.paper), entry.fidelity
    return stages, papers, fidelity


def versions_of(config: Config) -> dict[str, str]:
    """What numbers depend on beside the config."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    device = device_of(config)
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**found, "threads": str(config.run.threads or torch.get_num_threads())}
