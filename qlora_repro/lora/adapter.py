"""Which layers get LoRA on a live model, putting it there, and reading off what trains."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qlora_repro.config.messages import nearest_names
from qlora_repro.errors import ConfigError, ModelError, is_out_of_memory
from qlora_repro.lora.targets import TARGETS, layer_number, role_of
from qlora_repro.quant.finite import find_not_finite, refuse_not_finite
from qlora_repro.quant.linear_layers import find_linear_layers


def find_lora_targets(
    model: PreTrainedModel, target: str, *, layers: list[int] | None
) -> dict[str, str]:
    """Return where LoRA goes: module name -> role, in the model's order.

    Args:
        model: the base model.
        target: a key of TARGETS, or a regular expression that a full module name must match.
        layers: numbers of the layers to adapt, counted from 0 in each stack (T5 has two); None
            means all.

    Raises:
        ConfigError: nothing matches (it lists what there is), or a family computes q, k and v in
            one layer and `target` is qv or kq, which would adapt the third one as well.
    """
    names = find_linear_layers(model)
    roles = {name: role_of(model.config.model_type, name) or "other" for name in names}
    if target in ("qv", "kq") and "qkv" in roles.values():
        fused = next(name for name, role in roles.items() if role == "qkv")
        raise ConfigError(
            f"lora={target} needs separate q, k and v, and a {model.config.model_type} model "
            f"computes them in one layer ({_name_pattern(fused)}); use lora=attention"
        )
    chosen = {name: role for name, role in roles.items() if _matches(name, role, target)}
    if layers is not None:
        _check_layers(names, layers)
        chosen = {name: role for name, role in chosen.items() if layer_number(name) in layers}
    if not chosen:
        raise ConfigError(_describe_no_match(target, layers, names))
    return chosen


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


def _check_layers(names: Iterable[str], layers: list[int]) -> None:
    known = sorted({number for name in names if (number := layer_number(name)) is not None})
    unknown = sorted(set(layers) - set(known))
    if unknown or not layers:
        raise ConfigError(
            f"lora.layers has {unknown or 'no number'}, and this model's layers are numbered "
            f"{known[0]} to {known[-1]}; null means all of them"
        )


def _name_pattern(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def _describe_no_match(target: str, layers: list[int] | None, names: list[str]) -> str:
    """Return the sentence for a placement that matches no layer, with the layers that there are."""
    near = [] if target in TARGETS else nearest_names(target, TARGETS)
    hint = f" (did you mean {near[0]}?)" if near else ""
    where = "" if layers is None else f" in layers {layers}"
    known = ", ".join(f"{p} ({n})" for p, n in Counter(map(_name_pattern, names)).items())
    return (
        f"lora.target={target!r}{hint} matches no linear layer{where}; it must be "
        f"{', '.join(TARGETS)} or a regular expression for names like these, "
        f"with their number: {known}"
    )


def attach_lora(  # noqa: PLR0913  # LoRA's own numbers, and no more
    model: PreTrainedModel,
    names: Sequence[str],
    *,
    r: int,
    alpha: float,
    dropout: float,
    rslora: bool,
    dtype: str = "float32",
    seed: int,
) -> PeftModel:
    """Put LoRA on the named layers and freeze the rest; return the PEFT model around the same one.

    The update is scaled by alpha / r, with `rslora` by alpha / sqrt(r). Adapters are held in
    `dtype` whatever the base is: drawn in float32, then rounded. A classification head trains along
    in float32, and is saved with the adapter. `seed` draws the initial weights; the global
    generators stay as they are. Gradient checkpointing must be the non-reentrant kind, which needs
    no gradient at the frozen embeddings.

    Raises:
        ModelError: the live model's adapters are not those asked for.
    """
    config = LoraConfig(
        task_type=_task_type(model),
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT annotates int and divides either
        lora_dropout=dropout,
        use_rslora=rslora,
        target_modules=list(names),
        modules_to_save=_head_names(model) or None,
        fan_in_fan_out=any(isinstance(model.get_submodule(n), Conv1D) for n in names),
    )
    commit = getattr(model.config, "_commit_hash", None)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config, revision=commit)
    saved = adapted.peft_config["default"]
    for field in ("target_modules", "modules_to_save"):  # sets: their order would vary on disk
        if (value := getattr(saved, field)) is not None:
            setattr(saved, field, sorted(value))
    if wrong := set(names) ^ set(find_lora_layers(adapted)):
        raise ModelError(f"PEFT did not adapt exactly the layers asked for; {min(wrong)} differs")
    cast_adapters(adapted, dtype)
    _train_heads_in_float32(adapted)
    return adapted


def load_adapter(
    model: PreTrainedModel, folder: Path, names: Sequence[str], *, trainable: bool
) -> PeftModel:
    """Put a trained adapter on the named layers; return the PEFT model around the same one.

    Raises:
        ModelError: it cannot be read, is for other layers, lacks a weight or has one that is not
            finite.
    """
    try:
        with warnings.catch_warnings():  # it is refused below
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
            stored = set(file.keys())
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder} is no adapter for this model ({reason})") from error
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if wrong := weights.keys() - stored or set(names) ^ set(find_lora_layers(adapted)):
        raise ModelError(f"{folder} is no adapter for this model: {min(wrong)} is not in both")
    refuse_not_finite(str(folder), find_not_finite(weights.items()))
    return adapted


def cast_adapters(model: PeftModel, dtype: str) -> None:
    """Hold a model's adapters in `dtype`: "float32" or "bfloat16"."""
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.to(getattr(torch, dtype))
    if dtype != "float32":  # to which PEFT would cast what the Trainer reads from a checkpoint
        plain: Any = model
        plain.load_adapter = partial(type(model).load_adapter, model, autocast_adapter_dtype=False)


def _task_type(model: PreTrainedModel) -> TaskType:
    if type(model).__name__.endswith("ForSequenceClassification"):
        return TaskType.SEQ_CLS
    return TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM


def _head_names(model: PreTrainedModel) -> list[str]:
    """Return a classifier's top-level modules outside of its base model: `classifier`, `score`."""
    if _task_type(model) is not TaskType.SEQ_CLS:
        return []
    return [
        name
        for name, module in model.named_children()
        if module is not model.base_model and any(True for _ in module.parameters())
    ]


def _train_heads_in_float32(model: PeftModel) -> None:
    for wrapper in model.modules():
        saved = getattr(wrapper, "modules_to_save", None)
        if isinstance(saved, nn.ModuleDict) and "default" in saved:
            head = saved["default"].float()
            head.register_forward_pre_hook(_float32_inputs)  # they come in the base's compute dtype


def _float32_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs
    )


def unfreeze_base(model: PreTrainedModel) -> PreTrainedModel:
    """Let every weight train (full fine-tuning), in float32: bf16 loses small updates to rounding.

    Raises:
        ConfigError: the base is quantized.
    """
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or hasattr(weight, "quant_state"):
            raise ConfigError(
                f"lora=none trains every weight, and {name} is quantized; use lora=all"
            )
    module: nn.Module = model  # transformers' own .to is annotated amiss
    module.to(torch.float32).requires_grad_(True)
    return model


def find_lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the live LoRA layers by the name that their module has in the base model."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and len(module.lora_A)
    }


def count_adapted_roles(model: Any) -> dict[str, int]:
    """Return role -> number of live LoRA layers; empty without adapters."""
    kind = model.config.model_type
    return dict(Counter(role_of(kind, name) or "other" for name in find_lora_layers(model)))


def count_trainable(model: nn.Module) -> dict[str, Any]:
    """Return what trains, read off the live model: counts of parameters, and dtypes by count.

    `adapter` counts LoRA's weights, `head` a classification head's, `total` all that train.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    dtypes = Counter[str]()
    for weight in trained.values():
        dtypes[str(weight.dtype).removeprefix("torch.")] += weight.numel()
    return {
        "total": sum(p.numel() for p in trained.values()),
        "adapter": sum(p.numel() for n, p in trained.items() if ".lora_" in n),
        "head": sum(p.numel() for n, p in trained.items() if ".modules_to_save." in n),
        "dtypes": dict(dtypes),
    }
