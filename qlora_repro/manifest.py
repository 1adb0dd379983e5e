"""The manifest of a run: what actually ran, read off the loaded model, and checked.

A model that is not what the configuration asked for ends the run.
"""

import time
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import torch

from qlora_repro.config.paths import ROOT
from qlora_repro.config.schema import RunConfig
from qlora_repro.data.datasets import hash_examples
from qlora_repro.data.tokenization import EncodedExample, truncated_share, unended_share
from qlora_repro.errors import RunError
from qlora_repro.lora.adapter import count_adapted_roles, count_trainable
from qlora_repro.lora.targets import TARGETS, layer_number, role_of
from qlora_repro.model.load import LoadedModel
from qlora_repro.quant.linear_layers import find_linear_layers
from qlora_repro.quant.storage import LayerKind, find_unquantized_weights, measure_storage
from qlora_repro.records import AdapterSites, BaseWeights, Example, Manifest, TrainingData
from qlora_repro.session import ModelSession
from qlora_repro.store.provenance import collect_provenance, write_origin
from qlora_repro.store.run_id import deciding_settings, stage_digest
from qlora_repro.store.runs import RunFolder
from qlora_repro.train.trainer import TrainResult

LEAST_QUANTIZED = 0.98  # of the parameters in blocks; a mixture's routers stay 16-bit


def describe_base_model(cfg: RunConfig, loaded: LoadedModel) -> Manifest:
    """Describe the untuned model in memory; raises RunError when it is not what was asked for."""
    base = measure_storage(loaded.model)
    _raise_contradictions(_base_contradictions(cfg, base, loaded.model))
    return Manifest(
        run_id=stage_digest(cfg, "untuned"),
        decided_by=deciding_settings(cfg, "untuned"),
        model=loaded.origin,
        base=base,
        provenance=collect_provenance(device=device_name(loaded.model), root=ROOT),
    )


def describe_tuned_model(
    cfg: RunConfig, session: ModelSession, rows: list[EncodedExample], examples: list[Example]
) -> Manifest:
    """Describe a model about to be trained; raises RunError when it is not what was asked for."""
    loaded = session.tuned()
    adapted = {} if cfg.full_finetuning else count_adapted_roles(loaded.model)
    _raise_contradictions(_lora_contradictions(cfg, session, adapted))
    tokens = sum(map(len, rows))
    return replace(
        describe_base_model(cfg, loaded),
        run_id=stage_digest(cfg, "train"),
        decided_by=deciding_settings(cfg, "train"),
        seed=cfg.seed,
        lora=AdapterSites(
            target=cfg.lora.target, sites=adapted, r=None if cfg.full_finetuning else cfg.lora.r
        ),
        trainable=count_trainable(loaded.model),
        data=TrainingData(
            name=cfg.data.name,
            fingerprint=hash_examples(examples),
            rows=len(rows),
            tasks=dict(Counter(example.task for example in examples)),
            tokens=tokens,
            trained_share=sum(row.trained for row in rows) / tokens,
            truncated_share=truncated_share(rows),
            unended_share=unended_share(rows),
        ),
    )


def add_training(manifest: Manifest, result: TrainResult) -> Manifest:
    """Return the manifest with what training did."""
    training = asdict(result)
    del training["steps"]  # they have a file of their own
    summary = {"steps": len(result.steps), "last_loss": result.steps[-1].loss}
    return replace(manifest, training=training | summary)


def device_name(model: Any) -> str:
    """Return the hardware a model is on: "NVIDIA H200" or "cpu"."""
    device = next(model.parameters()).device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def record_origin(
    cfg: RunConfig, folder: RunFolder, stage: str, *, session: ModelSession, began: float
) -> None:
    """Write where a stage's results come from; it began at `began` of time.monotonic()."""
    device = device_name(session.current().model)
    write_origin(folder, stage, cfg=cfg, device=device, seconds=time.monotonic() - began)


def _linear_layers(model: Any) -> list[str]:
    """Return the base model's linear layers, heads left out, by the name they have without LoRA."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = [name for name in find_linear_layers(inner) if ".lora_" not in name]
    return [name.removesuffix(".base_layer") for name in names]


def _describe_unquantized(base: BaseWeights, model: Any) -> str:
    """Return what is left in 16 bits that should not be; empty where nothing is."""
    layers, linears = base.modules - base.kinds.get(LayerKind.EXPERTS, 0), _linear_layers(model)
    if layers != len(linears):
        return f"only {layers} of {len(linears)} layers are quantized"
    share = base.quantized_share or 0.0
    if share >= LEAST_QUANTIZED:
        return ""
    left = find_unquantized_weights(model)
    largest = max(left, key=lambda name: left[name])
    return f"only {share:.1%} of the parameters in blocks are quantized, and {largest} is not"


def _base_contradictions(cfg: RunConfig, base: BaseWeights, model: Any) -> list[str]:
    asked = f"dtype={cfg.dtype.name}, but"
    if not cfg.quantized:
        return [f"{asked} {base.modules} layers are quantized"] * (base.modules > 0)
    few = _describe_unquantized(base, model)
    dtypes, sizes, nested = tuple(base.dtypes), tuple(base.blocksizes), base.double_quantized
    checks = {
        f"{asked} {few}": few != "",
        f"{asked} the layers hold {dtypes or 'no codes'}": dtypes != (cfg.dtype.data_type,),
        f"dq={cfg.dq}, but {nested} of {base.modules} layers have nested scales": (
            nested != (base.modules if cfg.dq else 0)
        ),
        f"dtype.scales={cfg.dtype.scales}, but the layers have {tuple(base.scales)}": (
            cfg.dq and nested == base.modules and base.scales != [cfg.dtype.scales]
        ),
        f"blocksize {cfg.dtype.blocksize}, but the layers have {sizes}": (
            cfg.dtype.name != "int8" and sizes != (cfg.dtype.blocksize,)
        ),
        f"backend={cfg.dtype.backend}, but simulated is {base.simulated}": (
            base.simulated != (cfg.dtype.backend == "simulated")
        ),
    }
    return [sentence for sentence, wrong in checks.items() if wrong]


def _lora_contradictions(
    cfg: RunConfig, session: ModelSession, adapted: dict[str, int]
) -> list[str]:
    if cfg.full_finetuning:
        return []
    wrong = []
    if sum(adapted.values()) != len(session.adapted_layers):
        wrong.append(
            f"{len(session.adapted_layers)} layers were to be adapted, and "
            f"{sum(adapted.values())} are"
        )
    model = session.current().model.get_base_model()
    blocks = {layer_number(name) for name in session.adapted_layers} - {None}
    wanted = len(cfg.lora.layers) if cfg.lora.layers else model.config.num_hidden_layers
    if cfg.lora.target not in TARGETS:
        return wrong
    if len(blocks) < wanted:
        wrong.append(f"lora={cfg.lora.target} reached {len(blocks)} of {wanted} blocks")
    for role, n in _count_roles(cfg, model).items():
        if adapted.get(role, 0) != n:
            wrong.append(f"lora={cfg.lora.target} reached {adapted.get(role, 0)} of {n} {role}")
    return wrong


def _count_roles(cfg: RunConfig, model: Any) -> Counter[str]:
    """Count the live layers of each role that the target names, in the blocks asked for."""
    inside = [
        name
        for name in _linear_layers(model)
        if cfg.lora.layers is None or layer_number(name) in cfg.lora.layers
    ]
    roles = (role_of(model.config.model_type, name) or "other" for name in inside)
    return Counter(role for role in roles if role in TARGETS[cfg.lora.target])


def _raise_contradictions(wrong: list[str]) -> None:
    if wrong:
        raise RunError("the live model contradicts the configuration: " + "; ".join(wrong))
