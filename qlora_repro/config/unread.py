"""Settings that the chosen options do not read, by what each option declares that it reads.

A setting which another option declares, and none of the chosen ones does, has no effect: written
by the user it is refused, and in the cells of a sweep it makes no difference.
"""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from qlora_repro.config.registry import FULL_PRECISION, DataKind
from qlora_repro.config.schema import RunConfig, setting_types
from qlora_repro.errors import ConfigError

ANY = "*"  # every option that is not named
LM_EVAL = "eval.num_fewshot eval.limit eval.apply_chat_template"
QUESTIONS = f"{LM_EVAL} eval.n eval.kinds eval.seed eval.template"
SAMPLING = "template top_p temperature max_new_tokens batch_size limit stop"
HUB = "path revision split config_name columns tasks mix rows_per_task examples"
OPPONENTS = "run opponent both_orders"
SERVER = "protocol prompts seed model base_url request structured mode max_cost price prices"


def _name(section: str, names: str) -> str:
    return " ".join(f"{section}.{name}" for name in names.split())


# The setting that chooses -> its options -> the settings that an option reads.
READS: dict[str, dict[str, str]] = {
    "model.source": {
        "hub": "model.path model.revision model.trust_remote_code",
        "local": "model.path model.trust_remote_code",
    },
    "model.kind": {"classification": "model.num_labels"},
    "dtype.name": {
        ANY: "dtype.blocksize dtype.backend dtype.codebook",
        "int8 of bnb": "dtype.backend",
        **dict.fromkeys(FULL_PRECISION, ""),
    },
    "dq": {"true": "dtype.scales"},
    "lora.target": {ANY: "lora.*", "none": ""},
    "data.kind": {
        DataKind.PROCEDURAL: "data.split data.tasks",
        DataKind.FILE: "data.path data.columns data.tasks",
        DataKind.HUB: _name("data", HUB),
        DataKind.FUNCTION: _name("data", HUB),  # whatever the user's own likes
    },
    "train.max_steps": {ANY: "train.*", "0": "train.name train.epochs"},
    "eval.tasks": {
        ANY: f"{LM_EVAL} eval.include_path",
        "procedural_mc": QUESTIONS,
        "procedural_exact": f"{QUESTIONS} eval.max_new_tokens",
    },
    "eval.perplexity_file": {ANY: "eval.perplexity_* eval.reference", "null": ""},
    "eval.rouge": {"true": "eval.max_new_tokens"},
    "generate.name": {
        ANY: _name("generate", f"questions {SAMPLING}"),
        "procedural": _name("generate", f"seed {SAMPLING}"),
        "none": "",
    },
    "judge.kind": {
        "human": _name("judge", f"votes {OPPONENTS}"),
        "reference": _name("judge", f"margin {OPPONENTS}"),
        "replay": _name("judge", f"protocol benchmark model {OPPONENTS}"),
        "function": _name("judge", f"function {OPPONENTS}"),
        "openai": _name("judge", f"{SERVER} batch_discount client.* estimate.* {OPPONENTS}"),
    },
    "tracker.name": {ANY: "tracker.project tracker.mode", "none": ""},
}
WHERE = {"data.kind=file": "data=local", "model.source=local": "model=local"}  # as users write it


def unread_settings(cfg: RunConfig) -> dict[str, str]:
    """Return the settings that the chosen options do not read -> the setting that chooses."""
    unread: dict[str, str] = {}
    read: set[str] = set(READS)
    for key, options in READS.items():
        chosen = _chosen_options(cfg, key)
        for option, patterns in options.items():
            names = _matching_settings(patterns)
            unread |= dict.fromkeys(names, key)
            if option in chosen or (option == ANY and chosen - options.keys()):
                read |= names
    return {name: key for name, key in unread.items() if name not in read}


def _chosen_options(cfg: RunConfig, key: str) -> set[str]:
    if key == "data.kind":
        return {str(cfg.data.resolved_kind)}
    if key == "dtype.name" and (cfg.dtype.name, cfg.dtype.backend) == ("int8", "bnb"):
        return {"int8 of bnb"}
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name)
    yaml_values = {"None": "null", "True": "true", "False": "false"}
    return {
        yaml_values.get(str(one), str(one))
        for one in (value if isinstance(value, list) else [value])
    }


@cache
def _matching_settings(patterns: str) -> set[str]:
    return {
        name
        for name in setting_types()
        for pattern in patterns.split()
        if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
    }


def sections_read_by(key: str) -> set[str]:
    """Return the sections of which a setting chooses what is read."""
    patterns = " ".join(READS.get(key, {}).values())
    return {name.partition(".")[0] for name in patterns.split()}


def refuse_unread(cfg: RunConfig, written: Collection[str]) -> None:
    """Refuse a setting that the user wrote and no chosen option reads; ConfigError."""
    for name, key in unread_settings(cfg).items():
        if not any(each == name or each.startswith(f"{name}.") for each in written):
            continue
        value = ", ".join(sorted(_chosen_options(cfg, key))) or "[]"
        raise ConfigError(
            f"{name} is not read where {key} is {value}, and would change nothing; drop it, or "
            f"write {' or '.join(_reading_options(name, key))}"
        )


def _reading_options(name: str, key: str) -> Iterator[str]:
    for option, patterns in READS[key].items():
        if name in _matching_settings(patterns) and " " not in option:
            choice = f"another {key}" if option == ANY else f"{key}={option}"
            yield WHERE.get(choice, choice)
