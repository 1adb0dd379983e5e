"""Where a number comes from: commit, dirty flag, versions. Never imports what it reports on."""

import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
