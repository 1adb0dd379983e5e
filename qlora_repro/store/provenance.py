"""Where a number comes from: commit, versions, command, configuration, environment.

Each stage leaves one `origin-<stage>.json` beside its records, which --replay starts from. Of the
environment only variables that can change a number are recorded, by name: no key or token. The
packages reported on are never imported.
"""

import os
import platform
import socket
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qlora_repro.config.paths import ROOT
from qlora_repro.config.schema import RunConfig
from qlora_repro.records import Provenance
from qlora_repro.store.runs import RunFolder

PACKAGES = (
    "torch", "transformers", "bitsandbytes", "peft", "accelerate", "lm-eval", "datasets",
    "tokenizers", "safetensors", "hydra-core", "numpy",
)  # fmt: skip
ENVIRONMENT_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOMP_SPINCOUNT",
    "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME",
    "SLURM_JOB_ID", "SLURM_PROCID", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
)  # fmt: skip


def collect_provenance(*, device: str, root: Path) -> Provenance:
    """Return where a run comes from.

    Args:
        device: The name of the hardware, "NVIDIA H200" or "cpu".
        root: The checkout.
    """
    status = _git(root, "status", "--porcelain")
    return Provenance(
        commit=_git(root, "rev-parse", "HEAD"),
        dirty=None if status is None else bool(status),
        packages=installed_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
    )


def write_origin(
    folder: RunFolder, stage: str, *, cfg: RunConfig, device: str, seconds: float
) -> None:
    """Record how a stage was made, before its last file marks it as done."""
    folder.write_json(
        f"origin-{stage}.json",
        {
            "stage": stage,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "folder": str(Path.cwd()),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "host": socket.gethostname(),
            "environment": {
                name: os.environ[name] for name in ENVIRONMENT_VARIABLES if name in os.environ
            },
            "config": asdict(cfg),
            **asdict(collect_provenance(device=device, root=ROOT)),
        },
    )


@cache
def installed_versions() -> dict[str, str | None]:
    """Return the version of each of PACKAGES; None for one that is not installed."""
    return {name: installed_version(name) for name in PACKAGES}


def changed_versions(folder: RunFolder, stage: str) -> list[str]:
    """Return "torch 2.8.0, now 2.9.1" for each package that has changed since a stage was made.

    Empty where it is not known what the stage was made with.
    """
    name = f"origin-{stage}.json"
    if not folder.has(name):
        return []
    now = installed_versions()
    return [
        f"{package} {old}, now {now[package]}"
        for package, old in folder.read_json(name)["packages"].items()
        if package in now and now[package] != old
    ]


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def installed_version(package: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
