"""How a stage came about: command, configuration, versions, environment. What --replay starts from.

One `origin-<stage>.json` a stage, beside its records. Of the environment only variables that can
change a number are kept, by name, so that no key or token gets there.
"""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from qlora_repro.config import RunConfig
from qlora_repro.store.provenance import PACKAGES, installed, provenance
from qlora_repro.store.runs import Folder

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT"),
    *("PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME"),
    *("SLURM_JOB_ID", "SLURM_PROCID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
)


def write_origin(folder: Folder, stage: str, *, cfg: RunConfig, device: str, took: float) -> None:
    """Put on record how a stage was made, before its last file marks it as done; `took` seconds."""
    folder.write_json(
        f"origin-{stage}.json",
        {
            "stage": stage,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "folder": str(Path.cwd()),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(took, 3),
            "host": socket.gethostname(),
            "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
            "config": asdict(cfg),
            **asdict(provenance(device=device, root=ROOT)),
        },
    )


@cache
def versions() -> Mapping[str, str | None]:
    """Return what is installed now."""
    return {name: installed(name) for name in PACKAGES}


def other_versions(folder: Folder, stage: str) -> list[str]:
    """Return "torch 2.8.0, now 2.9.1" for each package that has changed since a stage was made.

    Nothing where it is not known what the stage was made with.
    """
    name = f"origin-{stage}.json"
    if not folder.has(name):
        return []
    then, now = folder.read_json(name)["packages"], versions()
    return [
        f"{package} {old}, now {now[package]}"
        for package, old in then.items()
        if package in now and now[package] != old
    ]
