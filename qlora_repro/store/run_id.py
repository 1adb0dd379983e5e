"""What names a run: the settings that decide its outcome, and no others."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qlora_repro.config.registry import DATASETS
from qlora_repro.config.schema import LEGACY, UNHASHED_FIELDS, RunConfig, names_template_file

WEIGHTS = ("model", "dtype", "dq", "lora", "data", "train", "seed")
UNTUNED = ("model", "dtype", "dq")
DECIDES = {
    "train": WEIGHTS,
    "eval": (*WEIGHTS, "eval"),
    "generate": (*WEIGHTS, "generate"),
    "judge": (*WEIGHTS, "generate", "judge"),
    "measure": ("model", "measure"),
    "plan": ("model", "dtype", "dq", "lora", "data", "train", "plan"),
    "untuned": UNTUNED,
    "untuned_eval": (*UNTUNED, "eval"),
    "untuned_generate": (*UNTUNED, "generate", "seed"),
}
# What may name a file or folder of the user's own, which counts by its contents.
FILE_SETTINGS = {
    "model": ("path",),
    "data": ("path",),
    "eval": ("perplexity_file", "include_path"),
    "generate": ("questions",),
    "judge": ("run", "opponent", "prompts", "votes"),
}
LARGE = 1 << 26  # bytes; a larger file, as of weights, counts by its size and date


def deciding_settings(cfg: RunConfig, stage: str) -> dict[str, Any]:
    """Return the part of the configuration that decides a stage's outcome."""
    sections = asdict(cfg)
    names = list(DECIDES[stage])
    if stage == "untuned_eval" and cfg.data.holdout:
        names.append("data")  # the held-out rows come out of the training set
    if stage.startswith("untuned") and cfg.model.kind == "classification":
        names.append("seed")  # it draws the new head
    if not cfg.quantized or (cfg.dtype.name, cfg.dtype.backend) == ("int8", "bnb"):
        del sections["dtype"]["blocksize"]  # nothing is cut into blocks
    if not cfg.quantized:
        del sections["dtype"]["backend"]  # which holds quantized weights
    if not cfg.dq:
        del sections["dtype"]["scales"]  # nothing is quantized twice
    if cfg.full_finetuning:
        sections["lora"] = {"target": cfg.lora.target}  # there is no adapter to have the rest
    if stage == "plan":  # which named what adapters train in before the adapters themselves did
        sections["plan"]["adapters"] = cfg.lora.dtype
        sections["lora"].pop("dtype", None)
    return {name: hashed_section(name, sections[name]) for name in names}


def hashed_section(name: str, values: Any) -> Any:
    """Return what decides an outcome of one section of the configuration, given as a dict."""
    if not isinstance(values, dict):
        return values
    legacy = LEGACY.get(name, {})
    hashed = {
        key: value
        for key, value in values.items()
        if key not in UNHASHED_FIELDS.get(name, ()) and not (key in legacy and legacy[key] == value)
    }
    if _names_own_files(name, values):
        hashed |= {k: _digest_files(hashed[k]) for k in FILE_SETTINGS.get(name, ()) if k in hashed}
    if names_template_file(hashed.get("template") or ""):
        hashed["template"] = _digest_files(hashed["template"])
    return hashed


def _names_own_files(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a section's paths lead to files of the user's own, and not to a hub."""
    if name == "data":
        return (
            values["name"] == "local"
            or values.get("kind") == "file"
            or values["name"] not in DATASETS
        )
    return name in ("eval", "generate", "judge") or values.get("source") == "local"


def _digest_files(named: Any) -> Any:
    """Return a digest of the file, or of the folder's files with their names, that a setting names.

    So an edited file is other work, and the same file in another place is the same work. Of a list
    each is looked at; what is no path stays as it is.
    """
    if isinstance(named, list):
        return [_digest_files(one) for one in named]
    path = Path(named or "").expanduser()
    if not named or not path.exists():
        return named
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        size, date = file.stat().st_size, file.stat().st_mtime_ns
        small = size <= LARGE
        digest.update(file.read_bytes() if small else f"{size} {date}".encode())
    return f"{path.resolve().name} sha256:{digest.hexdigest()[:16]}"


def stage_digest(cfg: RunConfig, stage: str) -> str:
    """Return 12 hex digits that name a stage's outcome: equal keys, equal results."""
    text = json.dumps(deciding_settings(cfg, stage), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_name(cfg: RunConfig, *, tuned: bool) -> str:
    """Return the readable half of a run's folder name; the digest behind it tells runs apart."""
    parts = [cfg.model.name, cfg.dtype.name, *(["dq"] if cfg.dq else [])]
    if not tuned:
        return "-".join([*parts, "untuned"])
    target = cfg.lora.target if cfg.lora.target.isidentifier() else "regex"
    parts.append("full" if cfg.full_finetuning else f"{target}-r{cfg.lora.r}")
    return "-".join([*parts, cfg.data.name, f"s{cfg.seed}"])


def run_id_of(folder: str) -> str:
    """Return the id of a run from the name of its folder.

    >>> run_id_of("tiny-nf4-dq-all-r64-procedural-s0-0123456789ab"), run_id_of("a-run")
    ('0123456789ab', 'a-run')
    """
    last = folder.rpartition("-")[2]
    return last if re.fullmatch("[0-9a-f]{12}", last) else folder


def flatten_settings(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name.

    >>> flatten_settings({"lora": {"r": 4}, "seed": 0})
    {'lora.r': 4, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_settings(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat
