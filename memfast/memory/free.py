"""How much memory a device has to give."""

import gc
from pathlib import Path

import torch

from memfast.memory.captured import give_back

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device | str) -> int:
    """Bytes that are free on a device, caches of torch's own counted as free."""
    device = torch.device(device)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "xpu":
        cached = torch.xpu.memory_reserved(device) - torch.xpu.memory_allocated(device)
        return torch.xpu.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return _free_of_machine()


def release(device: torch.device | str) -> None:
    """Give unused memory back, and what captured passes hold, so that others can have it."""
    give_back()
    gc.collect()
    device = torch.device(device)
    if device.type != "cpu":
        getattr(torch.get_device_module(device), "empty_cache", lambda: None)()


def _free_of_machine() -> int:
    """Of the machine, or of the container that bounds it."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = _pages("SC_AVPHYS_PAGES")
    try:
        most, used = (int((_CGROUP / f"memory.{n}").read_text()) for n in ("max", "current"))
    except (OSError, ValueError):
        return free
    return min(free, most - used)


def _pages(name: str) -> int:
    import os

    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1 << 33  # a machine that does not say
