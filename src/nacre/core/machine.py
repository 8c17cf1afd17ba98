"""What bits depend on beside config and seed: the device and torch; and whether a resumed run will have the same."""

from __future__ import annotations

import torch


def machine(device: torch.device, deterministic: bool) -> dict[str, str]:
    """What the bits of a run on this device depend on here.

    >>> sorted(machine(torch.device("cpu"), False))
    ['algorithms', 'device', 'kind', 'torch']
    """
    kind = device.type
    if kind == "cuda":
        kind = torch.cuda.get_device_name(device)
    elif kind == "cpu":
        kind = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    algorithms = "deterministic" if deterministic or device.type == "cpu" else "fastest"
    return {"device": device.type, "kind": kind, "torch": str(torch.__version__), "algorithms": algorithms}


def unlike(then: dict[str, str], now: dict[str, str]) -> str:
    """Why a run that is resumed here is not equal bit for bit to one that never stopped; empty where it is.

    >>> cpu = {"device": "cpu", "kind": "AVX2, 2 threads", "torch": "2.6.0", "algorithms": "deterministic"}
    >>> unlike(cpu, cpu), unlike(cpu, cpu | {"torch": "2.7.0"})
    ('', 'torch was 2.6.0, is 2.7.0')
    """
    changed = [f"{key} was {then.get(key, 'unknown')}, is {now[key]}" for key in now if then.get(key) != now[key]]
    if not changed and now["algorithms"] == "fastest":
        return "the algorithms of this device are not deterministic (run.deterministic = true asks for such)"
    return "; ".join(changed)
