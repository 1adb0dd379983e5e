"""What a run would take in memory, as a record; and what was to be expected of one that ran."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import QloraError
from qlora_repro.memory.architecture import Architecture, Linear
from qlora_repro.memory.breakdown import bits, inference, trained_params, training
from qlora_repro.memory.micro_batch import (
    MicroBatch,
    settle_micro_batch,
    settle_micro_batch_of_plan,
)
from qlora_repro.memory.settings import Setting, architecture, setting
from qlora_repro.records import MemoryPlan
from qlora_repro.store.run_id import key


def predicted(cfg: RunConfig) -> MemoryPlan:
    """Return what a run would take: where it leaves the micro-batch open, on plan.memory, or least.

    The least that it takes is one row with checkpointing, which is what is chosen for no card.
    """
    cfg = settle_micro_batch_of_plan(cfg)
    asked = setting(cfg)
    sizes, adapted = architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    return _record(cfg, asked, sizes, adapted)


def _record(
    cfg: RunConfig, asked: Setting, sizes: Architecture, adapted: Sequence[Linear]
) -> MemoryPlan:
    train, answer = training(sizes, asked, adapted), inference(sizes, asked, adapted)
    return MemoryPlan(
        run_id=key(cfg, "train"),
        model=cfg.model.name,
        dtype=asked.dtype,
        dq=asked.dq,
        stand_in=cfg.scale.stand_in,
        simulated=asked.backend == "simulated" and cfg.quantized,
        lora=cfg.lora.target,
        r=None if cfg.full_finetuning else asked.r,
        optim=asked.optim,
        adapters=cfg.lora.dtype,
        rows=asked.rows,
        length=asked.length,
        checkpointing=asked.checkpointing,
        accumulates=asked.accumulates,
        params=sizes.params,
        trained=trained_params(sizes, asked, adapted),
        bits=bits(sizes, asked),
        weights=train.weights,
        scales=train.scales,
        adapter_weights=train.adapters,
        gradients=train.gradients,
        optimizer=train.optimizer,
        copies=train.copies,
        activations=train.activations,
        activations_checkpointed=train.checkpointed,
        activations_unchecked=train.unchecked,
        logits=train.logits,
        peak=train.peak,
        when=train.when,
        busy=train.busy,
        stepping=train.stepping,
        cache=answer.cache,
        inference_activations=answer.activations,
        inference_logits=answer.logits,
        inference_peak=answer.peak,
    )


def predicted_peak(cfg: RunConfig, *, length: int | None = None, padded: bool = True) -> int:
    """Return the bytes that loading the model and training it take at most.

    `length` is that of the longest row, where it is known; `padded` is whether others are shorter.
    """
    asked = setting(cfg, length=length)
    asked = replace(asked, padded=asked.padded and padded)
    sizes, adapted = architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    return training(sizes, asked, adapted).peak


def foretold(cfg: RunConfig, training: dict[str, Any] | None) -> int | None:
    """Return the peak that was to be expected of a run, for rows as long as the longest it saw.

    `training` is the run's record. None where it did not train or did not note that length, where
    the base lay divided, and where planning cannot tell: a run that is done is not to fail for it.
    """
    if training and training.get("sharded"):
        return None
    longest = training.get("longest") if training else None
    if training and "micro_batch_size" in training:  # not in a record from before it was noted
        rows, checkpointing = training["micro_batch_size"], training["gradient_checkpointing"]
        cfg = settle_micro_batch(cfg, MicroBatch(rows=rows, checkpointing=checkpointing))
    try:
        return predicted_peak(cfg, length=longest) if longest else None
    except QloraError:
        return None
