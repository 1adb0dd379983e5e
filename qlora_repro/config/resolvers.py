"""What `${...}` in conf/ stands for: OmegaConf's resolvers, and what `auto` arithmetic means.

`dtype.compute_dtype=auto` is bf16 where the device multiplies it natively. It goes by what the
machine says of itself, never by a timing, so a machine always gives the same answer. A sweep asks
once, in the process that starts it, and every cell carries the answer.
"""

import math
import os
import sys
import textwrap
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omegaconf import DictConfig, Node, OmegaConf

from qlora_repro.config.paths import CONF, EXPERIMENTS, user_config_dir
from qlora_repro.errors import ConfigError

AUTO = "auto"
ROOT_VARIABLE = "QLORA_REPRO_ROOT"  # run.py sets it: where experiments/ is
DTYPE_VARIABLE = "QLORA_REPRO_COMPUTE_DTYPE"  # in the environment: what auto means everywhere
CPUINFO = Path("/proc/cpuinfo")
# Processor flags of x86 and Arm, any of these sets. A kernel may hide the tiles of AMX.
BF16_FLAGS = ({"amx_tile", "amx_bf16"}, {"avx512_bf16"}, {"bf16"})


def native_dtype(device: str) -> str:
    """Return the arithmetic that is fastest without loss for training: bfloat16 or float32.

    `device` is model.device. On a GPU it is bfloat16; on a CPU that emulates bfloat16, float32.
    """
    if pinned := os.environ.get(DTYPE_VARIABLE):
        return pinned
    on_gpu = device != "cpu" and (device != AUTO or _gpu_usable())
    return "bfloat16" if on_gpu or cpu_multiplies_bf16() else "float32"


def resolve_compute_dtype(cfg: DictConfig) -> None:
    """Write what `auto` means into a configuration that Hydra composed."""
    asked = OmegaConf.select(cfg, "dtype.compute_dtype", throw_on_resolution_failure=False)
    if asked != AUTO:
        return
    if cfg.dtype.name == "fp32":
        cfg.dtype.compute_dtype = "float32"
        return
    device = str(cfg.model.device)
    kind = device if device in (AUTO, "cpu") else "cuda"
    cfg.dtype.compute_dtype = f"${{native_dtype:{kind}}}"
    cfg.dtype.compute_dtype = cfg.dtype.compute_dtype  # resolved, from the sweep's cache first


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether the processor's flags say so; False where the system does not list them.

    >>> has_native_bf16("flags : sse2 avx512f avx512_bf16"), has_native_bf16("flags : sse2 avx512f")
    (True, False)
    """
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return False
    return has_native_bf16(next((x for x in lines if x.startswith(("flags", "Features"))), ""))


def has_native_bf16(line: str) -> bool:
    """Whether a line of processor flags, as /proc/cpuinfo has it, lists bf16 products."""
    flags = {*line.partition(":")[2].split()}
    return any(needed <= flags for needed in BF16_FLAGS)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(n) for n, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def _gpu_usable() -> bool:
    """Whether there is a GPU and a torch that can use it; torch is not imported."""
    try:
        return bool(visible_gpus()) and not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def count_steps(
    epochs: float | None, otherwise: int, rows: int | None, holdout: int, batch_size: int
) -> int:
    """Return the optimizer steps of so many passes over the rows that train; no epochs: otherwise.

    Raises ConfigError where the number of rows is not written.

    >>> count_steps(2, 10_000, 50_000, 0, 16), count_steps(None, 10_000, None, 0, 16)
    (6250, 10000)
    """
    if epochs is None:
        return otherwise
    if rows is None:
        raise ConfigError(
            f"train.epochs={epochs:g} needs to know how many rows there are, and data.rows is "
            "null; write data.rows=NUMBER"
        )
    return math.ceil((rows - holdout) * epochs / batch_size)


def published_dtype(source: str) -> str:
    """Return the arithmetic of a preset whose runs are published, whatever the processor.

    The embedded model's ran in float32 on a CPU; one from a hub computes as the paper's do.
    """
    return "float32" if source in ("embedded", "random") else "bfloat16"


def make_sweep_id() -> str:
    """Return a name for a sweep's folder that no other sweep has."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}-{os.getpid()}"


def list_options(group: str) -> str:
    """Return a group's options as --help shows them, wrapped and indented; the user's own too."""
    folders = [EXPERIMENTS if group == "experiments" else CONF / group]
    if config_dir := user_config_dir():
        folders.append(config_dir / group)
    names = sorted({path.stem for folder in folders for path in folder.glob("[!_]*.yaml")})
    text = textwrap.fill(", ".join(names) or "(none yet)", width=84)
    return text.replace("\n", "\n" + " " * 14)


def list_overrides() -> list[str]:
    """Return the overrides of this process's command line: in a sweep's cells, of the sweep's."""
    return [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]


def read_environment(variable: str, *default: str | None, _node_: Node) -> str | None:
    """Return an environment variable, for Hydra's own settings and the project's folder alone.

    What a setting of a run holds is written to its results, and so would a key be.
    """
    key = _node_._get_full_key(None)
    if variable != ROOT_VARIABLE and not key.startswith("hydra."):
        raise ConfigError(
            f"{key} reads the environment variable {variable}, and what a setting holds is written "
            "to results; write the value itself, or, of a judge's key, the variable's name in "
            "judge.client.key_env"
        )
    if variable not in os.environ and not default:
        raise ConfigError(f"{key} reads the environment variable {variable}, which is not set")
    return os.environ.get(variable, *default)


OmegaConf.register_new_resolver("oc.env", read_environment, replace=True)
OmegaConf.register_new_resolver("options", list_options, replace=True)
OmegaConf.register_new_resolver("published_dtype", published_dtype, replace=True)
OmegaConf.register_new_resolver("steps", count_steps, replace=True)
# Cached: the answer travels with a sweep's configuration to its workers, on other machines too.
OmegaConf.register_new_resolver("native_dtype", native_dtype, use_cache=True, replace=True)
OmegaConf.register_new_resolver("command_line", list_overrides, use_cache=True, replace=True)
OmegaConf.register_new_resolver("sweep_id", make_sweep_id, use_cache=True, replace=True)
