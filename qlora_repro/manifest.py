"""What actually ran, read off the live objects, and the check that it is what was asked for."""

import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import torch

from qlora_repro.config.paths import ROOT
from qlora_repro.config.schema import RunConfig
from qlora_repro.data.tokenization import Row, truncated_share, unended_share
from qlora_repro.errors import RunError
from qlora_repro.lora.adapter import coverage, trainable
from qlora_repro.lora.targets import TARGETS, layer_number, role_of
from qlora_repro.model.load import Loaded
from qlora_repro.quant.linear_layers import linear_layers
from qlora_repro.quant.storage import EXPERTS, Storage, storage, unquantized_weights
from qlora_repro.records import Example
from qlora_repro.session import Live
from qlora_repro.store.provenance import provenance, write_origin
from qlora_repro.store.run_id import decisive, key
from qlora_repro.store.runs import Folder
from qlora_repro.train.trainer import TrainResult

Manifest = dict[str, Any]
LEAST_QUANTIZED = 0.98  # of the parameters in blocks; a mixture's routers stay 16-bit


def base(cfg: RunConfig, loaded: Loaded) -> Manifest:
    """Describe the untuned model in memory; raises RunError when it is not what was asked for."""
    stored = storage(loaded.model)
    left = unquantized_weights(loaded.model)
    _refuse(_base_contradictions(cfg, stored, len(_linears(loaded.model)), left))
    return {
        "run_id": key(cfg, "untuned"),
        "decided_by": decisive(cfg, "untuned"),
        "model": loaded.origin,
        "base": _stored(stored) | {"quantized_share": _quantized_share(stored, left)},
        "provenance": asdict(provenance(device=device_name(loaded.model), root=ROOT)),
    }


def tuned(
    cfg: RunConfig, live: Live, rows: list[Row], examples: list[Example], digest: str
) -> Manifest:
    """Describe a model about to be trained; raises RunError when it is not what was asked for."""
    loaded = live.tuned()
    covered = {} if cfg.full_finetuning else coverage(loaded.model)
    _refuse(_lora_contradictions(cfg, live, covered))
    return base(cfg, loaded) | {
        "run_id": key(cfg, "train"),
        "decided_by": decisive(cfg, "train"),
        "seed": cfg.seed,
        "lora": {
            "target": cfg.lora.target,
            "sites": covered,
            "r": None if cfg.full_finetuning else cfg.lora.r,
        },
        "trainable": trainable(loaded.model),
        "data": {
            "name": cfg.data.name,
            "fingerprint": digest,
            "rows": len(rows),
            "tasks": dict(Counter(example.task for example in examples)),
            "tokens": sum(map(len, rows)),
            "trained_share": sum(row.trained for row in rows) / sum(map(len, rows)),
            "truncated_share": truncated_share(rows),
            "unended_share": unended_share(rows),
        },
    }


def trained(result: TrainResult) -> Manifest:
    """Describe what training did, for the manifest's last part."""
    facts = asdict(result)
    del facts["steps"]  # they have a file of their own
    return {"training": facts | {"steps": len(result.steps), "last_loss": result.steps[-1].loss}}


def device_name(model: Any) -> str:
    """Return the hardware a model is on: "NVIDIA H200" or "cpu"."""
    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def origin(cfg: RunConfig, folder: Folder, stage: str, *, live: Live, began: float) -> None:
    """Write where a stage's results come from; it began at `began` of time.monotonic()."""
    device = device_name(live.base_or_tuned().model)
    write_origin(folder, stage, cfg=cfg, device=device, took=time.monotonic() - began)


def _stored(stored: Storage) -> Manifest:
    return {
        "modules": sum(stored.modules.values()),
        "kinds": stored.modules,
        "dtypes": list(stored.dtypes),
        "blocksizes": list(stored.blocksizes),
        "double_quantized": stored.nested_modules,
        "scales": list(stored.scales),
        "parameters": stored.params,
        "all_parameters": stored.params
        + sum(kept.params for kept in stored.kept if kept.role != "adapter"),
        "bits_per_parameter": stored.bits_per_param,
        "code_bytes": stored.code_bytes,
        "scale_bytes": stored.scale_bytes,
        "table_bytes": stored.table_bytes,
        "simulated": stored.simulated,
        "kept": [asdict(kept) for kept in stored.kept],
    }


def _linears(model: Any) -> list[str]:
    """Return the base model's linear layers, heads left out, by the name they have without LoRA."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = [name for name in linear_layers(inner) if ".lora_" not in name]
    return [name.removesuffix(".base_layer") for name in names]


def _quantized_share(stored: Storage, left: dict[str, int]) -> float:
    """Return the share of the parameters in blocks that are in codes; `left` are the others."""
    return stored.params / (stored.params + sum(left.values()))


def _too_few(stored: Storage, linears: int, left: dict[str, int]) -> str:
    """Return what is left in 16 bits that should not be; empty where nothing is."""
    layers = sum(stored.modules.values()) - stored.modules.get(EXPERTS, 0)
    if layers != linears:
        return f"only {layers} of {linears} layers are quantized"
    share = _quantized_share(stored, left)
    if share >= LEAST_QUANTIZED:
        return ""
    largest = max(left, key=lambda name: left[name])
    return f"only {share:.1%} of the parameters in blocks are quantized, and {largest} is not"


def _base_contradictions(
    cfg: RunConfig, stored: Storage, linears: int, left: dict[str, int]
) -> list[str]:
    found = sum(stored.modules.values())
    if not cfg.quantized:
        return [f"dtype={cfg.dtype.name}, but {found} layers are quantized"] if found else []
    wrong = (
        [f"dtype={cfg.dtype.name}, but {few}"] if (few := _too_few(stored, linears, left)) else []
    )
    if stored.dtypes != (cfg.dtype.name,):
        wrong.append(f"dtype={cfg.dtype.name}, but the layers hold {stored.dtypes or 'no codes'}")
    if cfg.dq != stored.nested or (not cfg.dq and stored.nested_modules):
        wrong.append(
            f"dq={cfg.dq}, but {stored.nested_modules} of {found} layers have nested scales"
        )
    if cfg.dq and stored.nested and stored.scales != (cfg.dtype.scales,):
        wrong.append(f"dtype.scales={cfg.dtype.scales}, but the layers have {stored.scales}")
    if cfg.dtype.name != "int8" and stored.blocksizes != (cfg.dtype.blocksize,):
        wrong.append(f"blocksize {cfg.dtype.blocksize}, but the layers have {stored.blocksizes}")
    if stored.simulated != (cfg.dtype.backend == "simulated"):
        wrong.append(f"backend={cfg.dtype.backend}, but simulated is {stored.simulated}")
    return wrong


def _lora_contradictions(cfg: RunConfig, live: Live, covered: dict[str, int]) -> list[str]:
    if cfg.full_finetuning:
        return []
    wrong = []
    if sum(covered.values()) != len(live.sites):
        wrong.append(
            f"{len(live.sites)} layers were to be adapted, and {sum(covered.values())} are"
        )
    assert live.loaded is not None
    model = live.loaded.model.get_base_model()
    blocks = {layer_number(name) for name in live.sites} - {None}
    wanted = len(cfg.lora.layers) if cfg.lora.layers else model.config.num_hidden_layers
    if cfg.lora.target not in TARGETS:
        return wrong
    if len(blocks) < wanted:
        wrong.append(f"lora={cfg.lora.target} reached {len(blocks)} of {wanted} blocks")
    for role, n in _roles(cfg, model).items():
        if covered.get(role, 0) != n:
            wrong.append(f"lora={cfg.lora.target} reached {covered.get(role, 0)} of {n} {role}")
    return wrong


def _roles(cfg: RunConfig, model: Any) -> Counter[str]:
    """Count the live layers of each role that the target names, in the blocks asked for."""
    inside = [
        name
        for name in _linears(model)
        if cfg.lora.layers is None or layer_number(name) in cfg.lora.layers
    ]
    roles = (role_of(model.config.model_type, name) or "other" for name in inside)
    return Counter(role for role in roles if role in TARGETS[cfg.lora.target])


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise RunError("the live model contradicts the configuration: " + "; ".join(wrong))
