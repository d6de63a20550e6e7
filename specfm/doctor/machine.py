"""Cores, memory, GPUs, and what a launcher has set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from specfm.doctor.finding import Finding, bad, good, note

FEW_FILES = 4096  # file handles: a folder of shards keeps one open for each that is read
SMALL_SHM = 1 << 30


def cores() -> Iterator[Finding]:
    """How many cores this process may use, and whether torch starts more threads than these."""
    import torch

    there = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    share = cgroup_cores()
    usable = min(mine, share) if share else mine
    said = f"{usable:g} of {there} cores are ours, torch starts {torch.get_num_threads()} threads"
    if torch.get_num_threads() > usable + 0.5:
        yield note(
            "cores", f"{said}: steps can take many times longer",
            f"export OMP_NUM_THREADS={max(1, int(usable))}",
        )  # fmt: skip
    else:
        yield good("cores", said)


def cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that a container may use, None where it is not limited."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory() -> Iterator[Finding]:
    """Memory, and shared memory, which loaders and NCCL use."""
    total = memory_bytes()
    if total is not None:
        said = f"{total / 2**30:.0f} GiB of memory"
        if total < 4 << 30:
            yield note("memory", said, "use small batches (data.global_batch) and maps by tiles")
        else:
            yield good("memory", said)
    if Path("/dev/shm").is_dir():
        size = shutil.disk_usage("/dev/shm").total
        if size < SMALL_SHM:
            yield note(
                "shared memory", f"{size / 2**20:.0f} MiB in /dev/shm, which several GPUs fill",
                "start the container with --shm-size=8g or --ipc=host",
            )  # fmt: skip


def memory_bytes(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """What this process may use: the machine's, or the container's where that is less."""
    try:
        held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(held, int(cgroup.read_text()))
    except (OSError, ValueError):
        return held


def gpus() -> Iterator[Finding]:
    """GPUs that torch can use, and why not where the machine has some."""
    import torch

    from specfm.engine.distributed import has_nccl

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            said = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute {about.major}.{about.minor}"
            if f"sm_{about.major}{about.minor}" not in torch.cuda.get_arch_list() and about.major < 7:
                yield bad(
                    f"GPU {index}", f"{said}: this torch has no code for it",
                    "install a torch built for that GPU (pytorch.org, previous versions)",
                )  # fmt: skip
            elif not torch.cuda.is_bf16_supported():
                yield note(f"GPU {index}", f"{said}, without bfloat16", "train with optim.precision=fp32")
            else:
                yield good(f"GPU {index}", f"{said}, bfloat16")
        if torch.cuda.device_count() > 1 and not has_nccl():
            yield bad("GPUs", "several, and torch comes without NCCL", "install a torch build with NCCL")
    elif shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists():
        why = "this torch is built for the CPU" if torch.version.cuda is None else "CUDA does not start"
        yield bad(
            "GPUs", f"the machine has a driver of NVIDIA, but {why}",
            "install torch and torchvision with CUDA no newer than the driver allows (nvidia-smi, top right)"
            if torch.version.cuda is None
            else "see nvidia-smi: a driver older than this torch's CUDA, or a container without --gpus all",
        )  # fmt: skip
    elif getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        yield note("GPUs", "Apple's (MPS), which specfm does not use", "everything runs on the CPU")
    else:
        yield note("GPUs", "none: everything runs on the CPU", "pretrain models of size nano or tiny here")


def launcher() -> Iterator[Finding]:
    """What torchrun or SLURM have set, and how many files may be open."""
    world = os.environ.get("WORLD_SIZE")
    if world is not None:
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            yield bad(
                "launcher", f"WORLD_SIZE={world} is set without {', '.join(missing)}",
                "start with torchrun, or unset WORLD_SIZE",
            )  # fmt: skip
        else:
            yield good("launcher", f"rank {os.environ['RANK']} of {world}, as torchrun sets it")
    if job := os.environ.get("SLURM_JOB_ID"):
        yield good("launcher", f"SLURM job {job}, {os.environ.get('SLURM_NTASKS', '1')} tasks")
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FEW_FILES and (hard < 0 or hard > soft):
        yield note(
            "open files", f"{soft} at once, {hard} if asked for", f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}"
        )
    elif 0 <= soft < FEW_FILES:
        yield note("open files", f"{soft} at once", "cut fewer, larger shards (specfm shard --shard-bytes)")
