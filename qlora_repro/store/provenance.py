"""Where a number comes from: commit, dirty flag, versions. Never imports what it reports on.

How a stage came about: command, configuration, versions, environment. What --replay starts from.

One `origin-<stage>.json` a stage, beside its records. Of the environment only variables that can
change a number are kept, by name, so that no key or token gets there.
"""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qlora_repro.config.paths import ROOT
from qlora_repro.config.schema import RunConfig
from qlora_repro.store.runs import Folder

PACKAGES = (
    "torch", "transformers", "bitsandbytes", "peft", "accelerate", "lm-eval", "datasets",
    "tokenizers", "safetensors", "hydra-core", "numpy",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Frozen with each run."""

    commit: str | None  # None outside a git checkout
    dirty: bool | None
    packages: dict[str, str | None]
    python: str
    platform: str
    device: str  # as the caller read it off the model


def provenance(*, device: str, root: Path) -> Provenance:
    """Return where a run comes from; `root` is the checkout, `device` the name of the hardware."""
    status = _git(root, "status", "--porcelain")
    return Provenance(
        commit=_git(root, "rev-parse", "HEAD"),
        dirty=None if status is None else bool(status),
        packages={name: installed(name) for name in PACKAGES},
        python=platform.python_version(),
        platform=platform.platform(),
        device=device,
    )


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


@cache
def installed(name: str) -> str | None:
    """Return the version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


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
