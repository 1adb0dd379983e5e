"""Which of the processes that torchrun or accelerate started this one is; read without torch."""

import os


def rank() -> int:
    """Return this process's number among all, from 0; 0 where it was started alone."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return how many processes work on one run; 1 where it was started alone."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def local_rank() -> int:
    """Return this process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Return how many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def sharding_launcher() -> str | None:
    """Return the variable by which accelerate's configuration asks for FSDP or DeepSpeed."""
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() in ("1", "true"):
            return name
    return None
