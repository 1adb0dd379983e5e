"""What `dtype.compute_dtype=auto` means here: bf16 where the device multiplies it natively.

It goes by what the machine says of itself, never by a timing, so a machine always gives the same
answer. A sweep asks once, in the process that starts it, and every cell carries the answer.
"""

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

AUTO = "auto"
PINNED = (
    "QLORA_REPRO_COMPUTE_DTYPE"  # in the environment: what auto is to mean, whatever the device
)
CPUINFO = Path("/proc/cpuinfo")
# Processor flags of x86 and Arm, any of these sets. A kernel may hide the tiles of AMX.
NATIVE = ({"amx_tile", "amx_bf16"}, {"avx512_bf16"}, {"bf16"})


def native_dtype(device: str) -> str:
    """Return the arithmetic that is fastest without loss for training: bfloat16 or float32.

    `device` is model.device. On a GPU it is bfloat16; on a CPU that emulates bfloat16, float32.
    """
    if pinned := os.environ.get(PINNED):
        return pinned
    on_gpu = device != "cpu" and (device != AUTO or _gpu_usable())
    return "bfloat16" if on_gpu or cpu_multiplies_bf16() else "float32"


# The cache travels with a sweep's configuration to its workers, on other machines too.
OmegaConf.register_new_resolver("native_dtype", native_dtype, use_cache=True, replace=True)


def settle_compute_dtype(cfg: DictConfig) -> None:
    """Write what `auto` means into a configuration that Hydra composed."""
    if OmegaConf.select(cfg, "dtype.compute_dtype") != AUTO:
        return
    if cfg.dtype.name == "fp32":
        cfg.dtype.compute_dtype = "float32"
        return
    cfg.dtype.compute_dtype = f"${{native_dtype:{_kind_of(str(cfg.model.device))}}}"
    cfg.dtype.compute_dtype = cfg.dtype.compute_dtype  # resolved, from the sweep's cache first


def _kind_of(device: str) -> str:
    return device if device in (AUTO, "cpu") else "cuda"


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
    return any(needed <= flags for needed in NATIVE)


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(n) for n, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def _gpu_usable() -> bool:
    """Whether there is a GPU and a torch that can use it; torch is not imported."""
    try:
        return bool(gpus()) and not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False
