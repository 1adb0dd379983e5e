"""The stages a run can have, and what each must be given before anything slow begins.

From what Hydra composed to a RunConfig that can be run, or one sentence on why not.
"""

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from qlora_repro.config.resolvers import (
    AUTO,
    check_epochs,
    check_scale,
    settle_classes,
    settle_compute_dtype,
)
from qlora_repro.config.schema import (
    BNB_BLOCKSIZES,
    BNB_DTYPES,
    FULL_PRECISION,
    RunConfig,
    names_template_file,
)
from qlora_repro.distributed.environment import launcher_divides, processes
from qlora_repro.errors import ConfigError

STAGES = ("plan", "measure", "train", "eval", "generate", "judge")
SPREAD = "spread"
DEVICES = ("auto", "cpu", "cuda", SPREAD)  # of model.device


def check_stages(cfg: RunConfig) -> None:
    """Refuse a stage that there is not, and one that lacks what it works on."""
    if not cfg.stages:
        raise ConfigError(
            f"stages is empty; write stages=[train,eval], or some of {', '.join(STAGES)}"
        )
    for stage in cfg.stages:
        if stage not in STAGES:
            raise ConfigError(f"stages has {stage!r}, and knows only {', '.join(STAGES)}")
    if "eval" in cfg.stages:
        _check_eval(cfg)
    asks = cfg.generate.questions is not None or cfg.generate.name == "procedural"
    if "generate" in cfg.stages and not asks:
        raise ConfigError(
            f"stages has generate, and generate={cfg.generate.name} names no questions; use "
            "generate=procedural, or generate=local generate.questions=FILE"
        )
    if "judge" in cfg.stages:
        _check_judge(cfg)


def _check_eval(cfg: RunConfig) -> None:
    needed: dict[str, dict[str, object]] = {
        "perplexity": {"eval.perplexity_file=FILE": cfg.eval.perplexity_file},
        "custom": {
            "eval.include_path=FOLDER": cfg.eval.include_path,
            "eval.tasks=[NAME]": cfg.eval.tasks,
        },
    }
    for write, value in needed.get(cfg.eval.name, {}).items():
        if not value:
            raise ConfigError(
                f"{write.partition('=')[0]} has no value, and eval={cfg.eval.name} needs it; "
                f"write {write}"
            )


def settle_opponent(cfg: RunConfig) -> None:
    """Make texts of ids whose digits were read as a number."""
    judge, named = cfg.judge, cfg.judge.opponent
    if isinstance(named, list):
        judge.opponent = [str(one) for one in named]
    elif isinstance(named, int | float):
        judge.opponent = str(named)


def _check_judge(cfg: RunConfig) -> None:
    if cfg.judge.name == "none":
        raise ConfigError(
            "stages has judge, and judge=none judges nothing; use judge=reference, which needs no "
            "key, or judge=gpt4_pairwise"
        )
    if not cfg.judge.opponent:
        raise ConfigError(
            f"judge.opponent has no value, and judge={cfg.judge.name} compares with it; write "
            "judge.opponent=FILE of answers, the id of a run, base, or a list of these"
        )
    if cfg.judge.kind == "human" and cfg.judge.votes is None:
        raise ConfigError(
            "judge=human counts votes, and judge.votes names none; write judge.votes=FILE, a csv "
            "that the page of python -m qlora_repro.judge.annotate exports"
        )


def check_paths(cfg: RunConfig) -> None:
    """Refuse a path that leads nowhere before anything slow is imported or computed."""
    if cfg.model.source == "local" and not Path(cfg.model.path or "").expanduser().is_dir():
        raise ConfigError(
            f"model.path={cfg.model.path} is not a folder; it must be one with config.json, "
            "*.safetensors and a tokenizer"
        )
    files = {
        "data.path": cfg.data.path if cfg.data.name == "local" else None,
        "eval.perplexity_file": cfg.eval.perplexity_file,
        "generate.questions": cfg.generate.questions,
        "judge.votes": cfg.judge.votes,
    }
    for name, section in (("data", cfg.data), ("eval", cfg.eval), ("generate", cfg.generate)):
        if names_template_file(section.template):
            files[f"{name}.template"] = section.template
    for key, path in files.items():
        if path is not None and not Path(path).expanduser().is_file():
            raise ConfigError(f"{key}={path} is not a file; it is looked for from {Path.cwd()}")


def check_device(cfg: RunConfig) -> None:
    """Refuse a device that there is not, and a spread of what cannot be spread."""
    check_device_name(cfg.model.device)
    if cfg.model.device != SPREAD:
        return
    if processes() > 1:
        raise ConfigError(
            f"model.device=spread lets one process use all cards of a machine, and {processes()} "
            "were started; start python run.py alone, or write model.device=cuda train=fsdp"
        )
    if cfg.model.kind != "causal":
        raise ConfigError(
            f"model.device=spread is for model.kind=causal, and this one is {cfg.model.kind}; use "
            "model.device=cuda"
        )


def check_device_name(device: str) -> None:
    """Refuse a device by number: libraries train on the first GPU that a process sees."""
    if numbered := re.fullmatch(r"cuda:(\d+)", device):
        raise ConfigError(
            f"model.device={device} names one GPU of several, and a process trains on the first "
            f"that it sees; write CUDA_VISIBLE_DEVICES={numbered[1]} before the command, and "
            "model.device=cuda"
        )
    if device not in DEVICES:
        raise ConfigError(f"model.device is {device!r}, and must be one of {', '.join(DEVICES)}")


def check_processes(cfg: RunConfig) -> None:
    """Refuse training that the processes of this run cannot share."""
    train, many = cfg.train, processes()
    if not train.max_steps or "train" not in cfg.stages:
        return
    if name := launcher_divides():
        raise ConfigError(
            f"{name} is set, by accelerate's configuration, and would divide the model once more; "
            "use accelerate launch --multi_gpu with train=fsdp"
        )
    if train.sharded:
        _check_sharded(cfg)
    if train.batch_size % many:
        raise ConfigError(
            f"{many} processes cannot share train.batch_size={train.batch_size} evenly; start a "
            "number of them that divides it"
        )
    if train.micro_batch_size != "auto" and train.batch_size % (train.rows * many):
        raise ConfigError(
            f"train.micro_batch_size={train.micro_batch_size} in {many} processes does not divide "
            f"train.batch_size={train.batch_size}; write "
            f"train.micro_batch_size={train.batch_size // many} or a divisor of it"
        )


def _check_sharded(cfg: RunConfig) -> None:
    if processes() == 1:
        raise ConfigError(
            "train.sharded=true divides the base among processes, and this is the only one; start "
            "torchrun --nproc_per_node=N run.py ..., or write train.sharded=false"
        )
    if cfg.full_finetuning:
        raise ConfigError(
            "train.sharded=true divides a frozen base, and lora=none trains every weight; use "
            "lora=all or train.sharded=false"
        )
    if (cfg.dtype.name, cfg.dtype.backend) == ("int8", "bnb"):
        raise ConfigError(
            "train.sharded=true cannot divide the int8 layers of bitsandbytes; use dtype=nf4, or "
            "dtype.backend=simulated"
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
