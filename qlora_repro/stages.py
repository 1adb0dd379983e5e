"""The stages a run can have, and what each must be given before anything slow begins."""

import re
from pathlib import Path

from qlora_repro.config import RunConfig, names_template_file
from qlora_repro.errors import ConfigError
from qlora_repro.ranks import launcher_divides, processes

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
