"""From what Hydra composed to a RunConfig that can be run, or one sentence on why not."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from qlora_repro.arithmetic import AUTO, settle_compute_dtype
from qlora_repro.config import BNB_BLOCKSIZES, BNB_DTYPES, FULL_PRECISION, RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.presets import check_epochs, check_scale, settle_classes
from qlora_repro.stages import (
    check_device,
    check_paths,
    check_processes,
    check_stages,
    settle_opponent,
)

NO_DQ = (*FULL_PRECISION, "int8")  # nothing to quantize twice: no block-wise constants
SEED_END = 2**32  # numpy takes no larger seed

CHOICES: dict[str, Sequence[str]] = {
    "dtype.name": (
        *(*FULL_PRECISION, *BNB_DTYPES, "fp4_e2m1", "fp4_e3m0", "fp8_e4m3", "fp8_e5m2"),
        *("af4", "af4_l1", *(f"{kind}{k}" for kind in ("int", "nf") for k in range(2, 9))),
    ),
    "dtype.scales": ("dynamic8", "fp8_e4m3"),
    "dtype.compute_dtype": (AUTO, "bfloat16", "float16", "float32"),
    "model.attention": ("auto", "sdpa"),
    "model.kind": ("causal", "seq2seq", "classification"),
    "model.source": ("hub", "local", "embedded", "random"),
    "train.optim": (
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adamw_8bit",
        "adamw_torch",
        "adamw_torch_fused",
        "adafactor",
        "sgd",
    ),
    "lora.dtype": ("float32", "bfloat16"),
    "train.loss_mean": ("token", "sequence"),
    "train.kernels": ("none", "liger"),
    "rerun": ("never", "versions"),
    "on_error": ("continue", "stop"),
    "train.schedule": ("constant", "constant_with_warmup", "linear", "cosine"),
}
AT_LEAST: dict[int, Sequence[str]] = {  # null passes where a setting may be null
    0: (
        *(
            "data.holdout",
            "data.examples",
            "data.max_truncated",
            "eval.num_fewshot",
            "generate.temperature",
            "seed",
        ),
        *("train.lr", "train.max_steps", "train.warmup_steps", "train.save_steps"),
        *("train.max_grad_norm", "train.weight_decay"),
    ),
    1: (
        *("dtype.blocksize", "lora.r", "data.rows", "data.rows_per_task", "data.max_source_len"),
        *("train.batch_size", "train.micro_batch_size", "train.keep_checkpoints"),
        *("train.log_steps", "eval.limit", "eval.batch_size", "eval.n", "eval.max_new_tokens"),
        *("generate.max_new_tokens", "generate.batch_size", "generate.limit"),
    ),
    2: ("data.max_target_len", "eval.perplexity_tokens", "eval.perplexity_window"),
}
BELOW: dict[str, int] = {"lora.dropout": 1, "data.wrong": 1, "train.beta2": 1, "seed": SEED_END}
MAY_BE_AUTO = ("train.micro_batch_size", "train.gradient_checkpointing")  # the planner chooses
TYPES = {  # as a sentence names them
    "None": "null",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "str": "a text",
}


def parse(cfg: DictConfig, *, written: Collection[str]) -> RunConfig:
    """Return the checked configuration of one run; raises ConfigError before anything is loaded."""
    try:
        settle_compute_dtype(cfg)
        merged = OmegaConf.merge(_settings(), cfg)
        parsed = cast(RunConfig, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise ConfigError(unknown_key(str(error.full_key))) from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value; write {error.full_key}=VALUE") from error
    except InterpolationResolutionError as error:
        why = str(error).splitlines()[0]
        if own := why.partition("ConfigError raised while resolving interpolation: ")[2]:
            raise ConfigError(own) from error
        raise ConfigError(f"{error.full_key} refers to a value that is not there: {why}") from error
    except OmegaConfBaseException as error:
        key = str(error.full_key).split("[")[0]
        raise ConfigError(
            f"{key} is {_shown(OmegaConf.select(cfg, key))}, and must be {_type_of(key)}"
        ) from error
    return check(parsed, written=written)


def keys(kind: type = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Return every key a run can have, dotted, with its type."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        found[prefix + name] = hint
        if section := _section(hint):
            found |= keys(section, f"{prefix}{name}.")
    return found


def again(values: dict[str, Any]) -> RunConfig:
    """Return a configuration that `parse` has checked once, from what `asdict` made of it."""
    return cast(RunConfig, _filled(RunConfig, values))


def _filled(kind: type, values: dict[str, Any]) -> Any:
    sections = {name: values[name] for name in _sections(kind) if values[name] is not None}
    made = {name: _filled(_sections(kind)[name], value) for name, value in sections.items()}
    return kind(**values | made)


@cache
def _sections(kind: type) -> dict[str, type]:
    """Return the fields of a section that are sections themselves."""
    hints = get_type_hints(kind).items()
    return {name: section for name, hint in hints if (section := _section(hint))}


def _section(hint: Any) -> type | None:
    kinds = [a for a in (hint, *getattr(hint, "__args__", ())) if is_dataclass(a)]
    return cast(type, kinds[0]) if kinds else None


@cache
def _settings() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(RunConfig))  # which a merge copies


def unknown_key(key: str) -> str:
    """Return the sentence for a setting that does not exist, with the nearest that does."""
    known = list(keys())
    used = [name for name in reversed(known) if not name.startswith("model.tuned.")]
    tails = {name.rpartition(".")[2]: name for name in used}  # the first section wins
    last = key.rpartition(".")[2]
    near = [tails[last]] if last in tails else []  # a right name in the wrong section, or in none
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [tails[t] for t in difflib.get_close_matches(last, list(tails), n=1)]
    hint = f"did you mean {near[0]}?" if near else "python run.py --cfg job prints them all"
    return f"there is no setting {key!r}; {hint}"


def _shown(value: Any) -> str:
    """Return a value as it is written in YAML: null, and not None."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), repr(value))


def _type_of(key: str) -> str:
    hint = keys().get(key)
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    kinds = TYPES | {"str": "auto"} if key.replace("model.tuned", "train") in MAY_BE_AUTO else TYPES
    return " or ".join(kinds.get(part, "a section") for part in text.split(" | "))


def _of(cfg: RunConfig, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name)
    return value


def check(cfg: RunConfig, *, written: Collection[str]) -> RunConfig:
    """Refuse what cannot be run; settle what is only a default.

    `written` holds the keys the user wrote on the command line: `dq=true` with a 16-bit dtype is an
    error when it was written and is dropped when it is only the default.
    """
    rules = (_check_dtype, _check_lora, _check_train, check_device, check_processes, check_paths)
    settling = (check_epochs, check_scale, settle_classes, settle_opponent)
    for rule in (_check_auto, _check_values, *rules, *settling):
        rule(cfg)
    if cfg.dtype.name in NO_DQ and cfg.dq:
        if "dq" in written:
            raise ConfigError(
                f"dq=true does not go with dtype={cfg.dtype.name}, which has no block-wise "
                "quantization constants; drop dq=true or choose dtype=nf4"
            )
        cfg.dq = False
    check_stages(cfg)
    return cfg


def _check_values(cfg: RunConfig) -> None:
    """Refuse a value out of its range, whatever the others are."""
    for key, names in CHOICES.items():
        if _of(cfg, key) not in names:
            raise ConfigError(f"{key} is {_of(cfg, key)!r}, and must be one of {', '.join(names)}")
    for key, low in ((key, low) for low, keys in AT_LEAST.items() for key in keys):
        at_least(key, _of(cfg, key), low)
    for key, high in BELOW.items():
        if not 0 <= _of(cfg, key) < high:
            raise ConfigError(f"{key} is {_of(cfg, key)}, and must be in [0, {high})")
    if not 0 < cfg.generate.top_p <= 1:
        raise ConfigError(f"generate.top_p is {cfg.generate.top_p}, and must be in (0, 1]")


def _check_auto(cfg: RunConfig) -> None:
    """Refuse a text other than auto where the planner may choose."""
    for key in MAY_BE_AUTO:
        if isinstance(_of(cfg, key), str) and _of(cfg, key) != "auto":
            raise ConfigError(f"{key} is {_of(cfg, key)!r}, and must be {_type_of(key)}")


def at_least(key: str, value: float | str | None, low: float) -> None:
    """Refuse a number under the least that a setting takes; null passes, and so does auto."""
    if not (value is None or isinstance(value, str) or value >= low):  # so that nan is refused too
        raise ConfigError(f"{key} is {value}, and must be at least {low:g}")


def _check_dtype(cfg: RunConfig) -> None:
    dtype = cfg.dtype
    if not cfg.quantized:
        return
    if dtype.backend not in ("bnb", "simulated"):
        raise ConfigError(f"dtype.backend is {dtype.backend!r}, and must be bnb or simulated")
    if dtype.backend == "bnb" and dtype.name not in BNB_DTYPES:
        raise ConfigError(
            f"dtype={dtype.name} has no bitsandbytes kernel; dtype.backend=bnb holds "
            f"{', '.join(BNB_DTYPES)}, any other needs dtype.backend=simulated"
        )
    if dtype.backend == "bnb" and cfg.dq and dtype.scales != "dynamic8":
        raise ConfigError(f"dtype.scales={dtype.scales} needs dtype.backend=simulated")
    if dtype.backend == "bnb" and dtype.name != "int8" and dtype.blocksize not in BNB_BLOCKSIZES:
        raise ConfigError(
            f"dtype.blocksize={dtype.blocksize} is not one that bitsandbytes has "
            f"({', '.join(map(str, BNB_BLOCKSIZES))}); dtype.backend=simulated takes any"
        )


def _check_lora(cfg: RunConfig) -> None:
    trains = "train" in cfg.stages and cfg.train.max_steps > 0
    if cfg.full_finetuning and cfg.quantized and trains:
        raise ConfigError(
            f"lora=none trains every weight, and a dtype={cfg.dtype.name} base is frozen; "
            "use dtype=bf16 with lora=none, or lora=all"
        )
    if cfg.merge and (cfg.full_finetuning or not cfg.train.max_steps):
        without = "lora=none" if cfg.full_finetuning else "a run without training"
        raise ConfigError(f"merge=true merges an adapter, and {without} has none; drop merge=true")


def _check_train(cfg: RunConfig) -> None:
    train = cfg.train
    if train.micro_batch_size == "auto":  # and divides
        return
    if train.max_steps and train.batch_size % train.rows:
        raise ConfigError(
            f"train.micro_batch_size={train.micro_batch_size} does not divide "
            f"train.batch_size={train.batch_size}; write train.micro_batch_size={train.batch_size} "
            "or a divisor of it"
        )
