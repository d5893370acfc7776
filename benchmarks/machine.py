"""What the numbers were measured on: the machine and the packages."""

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = (
    "shardwise",
    "numpy",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "gensim",
    "fbgemm-gpu-cpu",
    "torchrec",
)


def describe() -> dict[str, object]:
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "transparent_hugepages": transparent_hugepages(),
        "kernel": platform.release(),
        "system": platform.system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    for line in read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def transparent_hugepages() -> str | None:
    """Give the word in brackets of "always [madvise] never"."""
    setting = read("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.partition("[")[2].partition("]")[0] or None


def memory_in_use() -> dict[str, int]:
    """Give this process's resident bytes, and how many of them are in 2 MB pages (Linux)."""
    sizes = {}
    for line in read("/proc/self/smaps_rollup").splitlines():
        name, _, rest = line.partition(":")
        if name in {"Rss", "AnonHugePages"}:
            sizes[f"{name}_bytes"] = int(rest.split()[0]) * 1024
    return sizes


def read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
