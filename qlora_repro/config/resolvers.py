"""What `dtype.compute_dtype=auto` means here: bf16 where the device multiplies it natively.

It goes by what the machine says of itself, never by a timing, so a machine always gives the same
answer. A sweep asks once, in the process that starts it, and every cell carries the answer.

What presets say in other words: passes over the data, GLUE's classes, stand-ins.
"""

import math
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError

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
    asked = OmegaConf.select(cfg, "dtype.compute_dtype", throw_on_resolution_failure=False)
    if asked != AUTO:
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


GLUE_CLASSES = {"mnli": 3, "stsb": 1}  # the others have two; 1 is a regression


def steps(
    epochs: float | None, otherwise: int, rows: int | None, holdout: int, batch_size: int
) -> int:
    """Return the optimizer steps of so many passes over the rows that train; no epochs: otherwise.

    Raises ConfigError where the number of rows is not written.

    >>> steps(2, 10_000, 50_000, 0, 16), steps(None, 10_000, None, 0, 16)
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


OmegaConf.register_new_resolver("steps", steps, replace=True)


def published_dtype(source: str) -> str:
    """Return the arithmetic of a preset whose runs are published, whatever the processor.

    The embedded model's ran in float32 on a CPU; one from a hub computes as the paper's do.
    """
    return "float32" if source in ("embedded", "random") else "bfloat16"


OmegaConf.register_new_resolver("published_dtype", published_dtype, replace=True)


def check_epochs(cfg: RunConfig) -> None:
    """Refuse passes over the data that the number of steps does not follow from."""
    train, data = cfg.train, cfg.data
    if train.epochs is None:
        return
    if not train.epochs > 0:
        raise ConfigError(f"train.epochs is {train.epochs:g}, and must be more than 0, or null")
    wanted = steps(train.epochs, 0, data.rows, data.holdout, train.batch_size)
    if train.max_steps != wanted:
        raise ConfigError(
            f"train.epochs={train.epochs:g} makes {wanted} steps, and train.max_steps is "
            f"{train.max_steps}; write one of them, with train.epochs=null for the second"
        )


def settle_classes(cfg: RunConfig) -> None:
    """Give a GLUE classifier the classes of its tasks; refuse a number that does not fit them."""
    model, data = cfg.model, cfg.data
    if model.kind != "classification" or data.name != "glue":
        return
    for task in data.tasks or filter(None, [data.config_name]):
        classes = GLUE_CLASSES.get(task, 2)
        if model.num_labels is None:
            model.num_labels = classes
        if model.num_labels != classes:
            raise ConfigError(
                f"model.num_labels is {model.num_labels}, and the GLUE task {task} needs "
                f"model.num_labels={classes}"
            )


def check_scale(cfg: RunConfig) -> None:
    """Refuse scale=small where no preset says what it would be."""
    if cfg.scale.name == "small" and not cfg.scale.stand_in:
        raise ConfigError(
            "scale=small is a preset's smaller twin, and there is none here; name a preset that "
            "has one, as in experiments=table4_mmlu_by_dtype scale=small"
        )
