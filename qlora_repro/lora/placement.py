"""Which layers a placement means on a live model."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable

from transformers import PreTrainedModel

from qlora_repro.errors import ConfigError
from qlora_repro.lora.roles import TARGETS, layer_number, role_of
from qlora_repro.quant.select import linear_layers


def sites(model: PreTrainedModel, target: str, *, layers: list[int] | None) -> dict[str, str]:
    """Return where LoRA goes: module name -> role, in the model's order.

    `target` is a key of TARGETS or a regular expression that a whole module name must match.
    `layers` keeps the layers with these numbers, counted from 0 in each stack (T5 has two). A
    family that computes q, k and v in one layer is refused for qv and kq: adapting that layer would
    adapt the third one as well. Raises ConfigError for what matches nothing; it lists what there
    is.
    """
    names = linear_layers(model)
    roles = {name: role_of(model.config.model_type, name) or "other" for name in names}
    chosen = {name for name in names if _matches(name, roles[name], target)}
    if target in ("qv", "kq") and "qkv" in roles.values():
        fused = next(name for name, role in roles.items() if role == "qkv")
        raise ConfigError(
            f"lora={target} needs separate q, k and v, and a {model.config.model_type} model "
            f"computes them in one layer ({_pattern(fused)}); use lora=attention"
        )
    if layers is not None:
        chosen &= _in_layers(names, layers)
    if not chosen:
        raise ConfigError(_nothing(target, layers, names))
    return {name: roles[name] for name in names if name in chosen}


def _matches(name: str, role: str, target: str) -> bool:
    if target in TARGETS:
        return role in TARGETS[target]
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise ConfigError(
            f"lora.target={target!r} is neither one of {', '.join(TARGETS)} nor a regular "
            f"expression ({error})"
        ) from error


def _in_layers(names: Iterable[str], layers: list[int]) -> set[str]:
    by_number: dict[int | None, set[str]] = {}
    for name in names:
        by_number.setdefault(layer_number(name), set()).add(name)
    known = sorted(number for number in by_number if number is not None)
    unknown = sorted(set(layers) - set(known))
    if unknown or not layers:
        raise ConfigError(
            f"lora.layers has {unknown or 'no number'}, and this model's layers are numbered "
            f"{known[0]} to {known[-1]}; null means all of them"
        )
    return set[str]().union(*(by_number[number] for number in layers))


def _pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def _nothing(target: str, layers: list[int] | None, names: list[str]) -> str:
    """Return the sentence for a placement that matches no layer, with the layers that there are."""
    near = [] if target in TARGETS else difflib.get_close_matches(target, TARGETS, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    where = "" if layers is None else f" in layers {layers}"
    there = ", ".join(f"{p} ({n})" for p, n in Counter(map(_pattern, names)).items())
    return (
        f"lora.target={target!r}{hint} matches no linear layer{where}; it must be "
        f"{', '.join(TARGETS)} or a regular expression for names like these, "
        f"with their number: {there}"
    )
