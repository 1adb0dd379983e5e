"""From what Hydra composed to a RunConfig that can be run, or one sentence on why not.

The rules of the configuration are all here: ranges, what goes with what, and what each stage must
be given before anything slow begins.
"""

import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from qlora_repro.config.messages import (
    describe_type,
    describe_unknown_setting,
    format_value,
    suggest_names,
)
from qlora_repro.config.registry import (
    BNB_BLOCKSIZES,
    BNB_DTYPES,
    DATA_TYPES,
    DATASETS,
    JUDGES,
    WITHOUT_DOUBLE_QUANT,
    DataKind,
    is_function_name,
    pin_function,
)
from qlora_repro.config.resolvers import AUTO, count_steps, resolve_compute_dtype
from qlora_repro.config.schema import RunConfig, names_template_file, setting_types
from qlora_repro.config.unread import refuse_unread
from qlora_repro.distributed.environment import sharding_launcher, world_size
from qlora_repro.errors import ConfigError

SPREAD = "spread"
DEVICES = ("auto", "cpu", "cuda", SPREAD)  # of model.device
SEED_END = 2**32  # numpy takes no larger seed
GLUE_CLASSES = {"mnli": 3, "stsb": 1}  # the others have two; 1 is a regression

MAY_BE_AUTO = ("train.micro_batch_size", "train.gradient_checkpointing")  # the planner chooses
CHOICES: dict[str, Sequence[str | None]] = {
    "data.kind": (None, *DataKind),
    "dtype.scales": ("dynamic8", "fp8_e4m3"),
    "dtype.compute_dtype": (AUTO, "bfloat16", "float16", "float32"),
    "judge.kind": ("none", *JUDGES),
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
MINIMUM: dict[int, str] = {  # null passes where a setting may be null
    0: "data.examples data.holdout data.max_truncated eval.num_fewshot generate.temperature seed "
    "train.lr train.max_grad_norm train.max_steps train.save_steps train.warmup_steps "
    "train.weight_decay",
    1: "data.max_source_len data.rows data.rows_per_task dtype.blocksize eval.batch_size "
    "eval.limit eval.max_new_tokens eval.n generate.batch_size generate.limit "
    "generate.max_new_tokens lora.r measure.blocks measure.rows measure.sample train.batch_size "
    "train.keep_checkpoints train.log_steps train.micro_batch_size",
    2: "data.max_target_len eval.perplexity_tokens eval.perplexity_window",
}
FOLDER_NAME = re.compile(r"(?![.])[\w.+-]{1,100}")
UPPER_BOUND = {"lora.dropout": 1, "data.wrong": 1, "train.beta2": 1, "seed": SEED_END}  # exclusive


def parse_config(cfg: DictConfig, *, written: Collection[str]) -> RunConfig:
    """Return the checked configuration of one run, before anything is loaded.

    Args:
        cfg: What Hydra composed, or a configuration that was recorded.
        written: The settings that the user wrote on the command line.

    Raises:
        ConfigError: For what cannot be run, in one sentence.
    """
    try:
        resolve_compute_dtype(cfg)
        merged = OmegaConf.merge(_empty_config(), cfg)
        config = cast(RunConfig, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        raise ConfigError(describe_unknown_setting(str(error.full_key), setting_types())) from error
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value; write {error.full_key}=VALUE") from error
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        if ours := reason.partition("ConfigError raised while resolving interpolation: ")[2]:
            raise ConfigError(ours) from error
        raise ConfigError(
            f"{error.full_key} refers to a value that is not there: {reason}"
        ) from error
    except OmegaConfBaseException as error:
        key = str(error.full_key).split("[")[0]
        value = format_value(OmegaConf.select(cfg, key))
        raise ConfigError(f"{key} is {value}, and must be {_describe_setting(key)}") from error
    return check_config(config, written=written)


@cache
def _empty_config() -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(RunConfig))  # which a merge copies


def check_config(cfg: RunConfig, *, written: Collection[str]) -> RunConfig:
    """Refuse what cannot be run; resolve what is only a default.

    `written` holds the settings that the user wrote: one that the chosen options do not read is an
    error then, and so is `dq=true` with a 16-bit dtype, which is dropped where it is the default.
    """
    for check in (
        _check_names,
        _check_auto,
        _check_values,
        _check_dtype,
        _check_data,
        _check_judge_function,
        _check_lora,
        _check_train,
        _check_device,
        _check_processes,
        _check_paths,
        _check_epochs,
        _check_scale,
        _resolve_num_labels,
        _resolve_opponent,
    ):
        check(cfg)
    if cfg.dtype.name in WITHOUT_DOUBLE_QUANT and cfg.dq:
        if "dq" in written:
            raise ConfigError(
                f"dq=true does not go with dtype={cfg.dtype.name}, which has no block-wise "
                "quantization constants; drop dq=true or choose dtype=nf4"
            )
        cfg.dq = False
    refuse_unread(cfg, written)
    check_stage_settings(cfg)
    return cfg


def _get_setting(cfg: RunConfig, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _describe_setting(key: str) -> str:
    auto = key.replace("model.tuned", "train") in MAY_BE_AUTO
    return describe_type(setting_types().get(key), auto=auto)


def _check_names(cfg: RunConfig) -> None:
    """Refuse names that would lead a run's folder out of the results folder."""
    for key, name in (
        ("model", cfg.model.name),
        ("data", cfg.data.name),
        ("dtype", cfg.dtype.name),
    ):
        if not FOLDER_NAME.fullmatch(name):
            raise ConfigError(
                f"{key}.name is {name!r}, and must be letters, digits, '.', '_', '+' and '-', at "
                "most 100: it is part of the name of the run's folder"
            )


def _check_auto(cfg: RunConfig) -> None:
    """Refuse a text other than auto where the planner may choose."""
    for key in MAY_BE_AUTO:
        value = _get_setting(cfg, key)
        if isinstance(value, str) and value != "auto":
            raise ConfigError(f"{key} is {value!r}, and must be {_describe_setting(key)}")


def _check_values(cfg: RunConfig) -> None:
    """Refuse a value out of its range, whatever the others are."""
    for key, choices in CHOICES.items():
        value = _get_setting(cfg, key)
        if value not in choices:
            names = ", ".join(name for name in choices if name is not None)
            raise ConfigError(f"{key} is {value!r}, and must be one of {names}")
    for low, keys in MINIMUM.items():
        for key in keys.split():
            check_minimum(key, _get_setting(cfg, key), low)
    for key, high in UPPER_BOUND.items():
        if not 0 <= _get_setting(cfg, key) < high:
            raise ConfigError(f"{key} is {_get_setting(cfg, key)}, and must be in [0, {high})")
    if not 0 < cfg.generate.top_p <= 1:
        raise ConfigError(f"generate.top_p is {cfg.generate.top_p}, and must be in (0, 1]")


def check_minimum(key: str, value: float | str | None, low: float) -> None:
    """Refuse a number under the least that a setting takes; null passes, and so does auto."""
    if not (value is None or isinstance(value, str) or value >= low):  # so that nan is refused too
        raise ConfigError(f"{key} is {value}, and must be at least {low:g}")


def _check_dtype(cfg: RunConfig) -> None:
    dtype = cfg.dtype
    cfg.measure.dtypes = [
        pin_function(name, key="measure.dtypes") if is_function_name(name) else name
        for name in cfg.measure.dtypes
    ]
    if dtype.codebook is not None:
        _check_new_name("dtype", dtype.name, DATA_TYPES, function="dtype.codebook")
        dtype.codebook = pin_function(dtype.codebook, key="dtype.codebook")
    elif dtype.name not in DATA_TYPES:
        raise ConfigError(
            f"dtype.name is {dtype.name!r}, and must be one of {', '.join(DATA_TYPES)}, or the "
            "name of your own with dtype.codebook=MODULE:FUNCTION"
        )
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


def _check_new_name(group: str, name: str, known: Collection[str], *, function: str) -> None:
    """Refuse a name of the user's own that stands for something here, or cannot name a folder."""
    if name in known:
        raise ConfigError(
            f"{function} is your own, and {group}.name={name} is the name of another; choose a "
            "name of your own"
        )
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(
            f"{group}.name is {name!r}, and is part of a folder's name; use letters, digits and _"
        )


def _check_data(cfg: RunConfig) -> None:
    data = cfg.data
    if data.loader is not None:
        _check_new_name("data", data.name, DATASETS, function="data.loader")
        if data.resolved_kind != DataKind.FUNCTION:
            raise ConfigError(
                f"data.loader is a function, and data.kind is {data.kind}; write data.kind=function"
            )
        data.loader = pin_function(data.loader, key="data.loader")
    elif data.kind == DataKind.FUNCTION:
        raise ConfigError("data.kind is function; write data.loader=MODULE:FUNCTION")
    if data.resolved_kind is None:
        raise ConfigError(
            f"there is no dataset {data.name!r} ({suggest_names(data.name, list(DATASETS))}); "
            "data.kind says where the rows of your own come from, and any file goes through "
            "data=local"
        )
    if data.resolved_kind == DataKind.FILE and data.path is None:
        raise ConfigError("data.path has no value; write data.path=FILE")


def _check_judge_function(cfg: RunConfig) -> None:
    judge = cfg.judge
    if (judge.kind == "function") != (judge.function is not None):
        raise ConfigError(
            f"judge.kind is {judge.kind} and judge.function is {format_value(judge.function)}; a "
            "judge of your own needs judge.kind=function and judge.function=MODULE:FUNCTION"
        )
    if judge.function is not None:
        judge.function = pin_function(judge.function, key="judge.function")


def _check_lora(cfg: RunConfig) -> None:
    trains = cfg.train.max_steps > 0 and {"train", "plan"} & {*cfg.stages}
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
    if train.max_steps and train.batch_size % train.micro_batch_rows:
        raise ConfigError(
            f"train.micro_batch_size={train.micro_batch_size} does not divide "
            f"train.batch_size={train.batch_size}; write train.micro_batch_size={train.batch_size} "
            "or a divisor of it"
        )


def _check_device(cfg: RunConfig) -> None:
    """Refuse a device that there is not, and a spread of what cannot be spread."""
    _check_device_name(cfg.model.device)
    if cfg.model.device != SPREAD:
        return
    if world_size() > 1:
        raise ConfigError(
            f"model.device=spread lets one process use all cards of a machine, and {world_size()} "
            "were started; start python run.py alone, or write model.device=cuda train=fsdp"
        )
    if cfg.model.kind != "causal":
        raise ConfigError(
            f"model.device=spread is for model.kind=causal, and this one is {cfg.model.kind}; use "
            "model.device=cuda"
        )


def _check_device_name(device: str) -> None:
    """Refuse a device by number: libraries train on the first GPU that a process sees."""
    if numbered := re.fullmatch(r"cuda:(\d+)", device):
        raise ConfigError(
            f"model.device={device} names one GPU of several, and a process trains on the first "
            f"that it sees; write CUDA_VISIBLE_DEVICES={numbered[1]} before the command, and "
            "model.device=cuda"
        )
    if device not in DEVICES:
        raise ConfigError(f"model.device is {device!r}, and must be one of {', '.join(DEVICES)}")


def _check_processes(cfg: RunConfig) -> None:
    """Refuse training that the processes of this run cannot share."""
    train, many = cfg.train, world_size()
    if not train.max_steps or "train" not in cfg.stages:
        return
    if name := sharding_launcher():
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
    if train.micro_batch_size != "auto" and train.batch_size % (train.micro_batch_rows * many):
        raise ConfigError(
            f"train.micro_batch_size={train.micro_batch_size} in {many} processes does not divide "
            f"train.batch_size={train.batch_size}; write "
            f"train.micro_batch_size={train.batch_size // many} or a divisor of it"
        )


def _check_sharded(cfg: RunConfig) -> None:
    if world_size() == 1:
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


def _check_paths(cfg: RunConfig) -> None:
    """Refuse a path that leads nowhere before anything slow is imported or computed."""
    if cfg.model.source == "local" and not Path(cfg.model.path or "").expanduser().is_dir():
        raise ConfigError(
            f"model.path={cfg.model.path} is not a folder; it must be one with config.json, "
            "*.safetensors and a tokenizer"
        )
    files = {
        "data.path": cfg.data.path if cfg.data.resolved_kind == DataKind.FILE else None,
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


def _check_epochs(cfg: RunConfig) -> None:
    """Refuse passes over the data that the number of steps does not follow from."""
    train, data = cfg.train, cfg.data
    if train.epochs is None:
        return
    if not train.epochs > 0:
        raise ConfigError(f"train.epochs is {train.epochs:g}, and must be more than 0, or null")
    wanted = count_steps(train.epochs, 0, data.rows, data.holdout, train.batch_size)
    if train.max_steps != wanted:
        raise ConfigError(
            f"train.epochs={train.epochs:g} makes {wanted} steps, and train.max_steps is "
            f"{train.max_steps}; write one of them, with train.epochs=null for the second"
        )


def _check_scale(cfg: RunConfig) -> None:
    """Refuse scale=small where no preset says what it would be."""
    if cfg.scale.name == "small" and not cfg.scale.stand_in:
        raise ConfigError(
            "scale=small is a preset's smaller twin, and there is none here; name a preset that "
            "has one, as in experiments=table4_mmlu_by_dtype scale=small"
        )


def _resolve_num_labels(cfg: RunConfig) -> None:
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


def _resolve_opponent(cfg: RunConfig) -> None:
    """Make texts of ids whose digits were read as a number."""
    judge, named = cfg.judge, cfg.judge.opponent
    if isinstance(named, list):
        judge.opponent = [str(one) for one in named]
    elif isinstance(named, int | float):
        judge.opponent = str(named)


def check_stage_settings(cfg: RunConfig) -> None:
    """Refuse a stage that lacks what it works on; which stages there are is the pipeline's."""
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
    needed = {
        "perplexity": ("perplexity_file=FILE",),
        "custom": ("include_path=FOLDER", "tasks=[NAME]"),
    }
    for setting in needed.get(cfg.eval.name, ()):
        key = setting.partition("=")[0]
        if not getattr(cfg.eval, key):
            raise ConfigError(
                f"eval.{key} has no value, and eval={cfg.eval.name} needs it; write eval.{setting}"
            )


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
