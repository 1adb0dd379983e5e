"""stages=[plan]: what a run would take, without its weights and without a GPU."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qlora_repro.config import RunConfig
from qlora_repro.console import note, say
from qlora_repro.errors import Busy, ConfigError, QloraError
from qlora_repro.plan import show
from qlora_repro.plan.architecture import Architecture, Linear, architecture
from qlora_repro.plan.breakdown import bits, inference, trained_params, training
from qlora_repro.plan.micro_batch import (
    MicroBatch,
    choose_micro_batch,
    leaves_open,
    settle_micro_batch,
)
from qlora_repro.plan.setting import Setting, setting
from qlora_repro.plan.todo import todo
from qlora_repro.records import MemoryPlan
from qlora_repro.store.identity import decisive, key, slug
from qlora_repro.store.runs import open_store


def plan(cfg: RunConfig) -> MemoryPlan:
    """Predict a run's memory, show it, and leave it in the store as `plan-<digest>.jsonl`.

    Raises ConfigError for what cannot be planned, ModelError where the sizes of a model are neither
    written as model.architecture nor found in its checkpoint.
    """
    if cfg.stages != ["plan"]:
        raise ConfigError(
            f"stages is [{','.join(cfg.stages)}], and plan goes alone, as it loads nothing; write "
            "stages=[plan]"
        )
    found = predicted(cfg)
    digest = key(cfg, "plan")
    folder = open_store(cfg.results_dir).folder(slug(cfg, tuned=True), key(cfg, "train"))
    say(f"memory predicted for {show.describe(found)}")
    say(show.table(found))
    if cfg.scale.stand_in:
        say(f"scale=small: {cfg.scale.stand_in}")
    for line in show.lines(found, cfg.plan, chosen=chosen_by_card(cfg)):
        say(line)
    say(todo(cfg).words())
    try:
        with folder.locked():
            folder.write_json(f"settings-{digest}.json", decisive(cfg, "plan"))
            folder.write(f"plan-{digest}.jsonl", [found])
        say(f"the plan lies in {folder.path / f'plan-{digest}.jsonl'}")
    except Busy as error:
        note(f"the plan is not kept: {error}")
    return found


def predicted(cfg: RunConfig) -> MemoryPlan:
    """Return what a run would take: where it leaves the micro-batch open, on plan.memory, or least.

    The least that it takes is one row with checkpointing, which is what is chosen for no card.
    """
    memory = None if cfg.plan.memory is None else show.card_bytes(cfg.plan.memory, cfg.plan)
    cfg = settle_micro_batch(cfg, choose_micro_batch(cfg, memory))
    asked = setting(cfg)
    sizes, adapted = architecture(cfg.model, cfg.lora.target, layers=cfg.lora.layers)
    return _record(cfg, asked, sizes, adapted)


def chosen_by_card(cfg: RunConfig) -> dict[int, MicroBatch]:
    """Return what the planner chooses for each card; nothing where the run states it all."""
    if not leaves_open(cfg.train):
        return {}
    return {
        card: choose_micro_batch(cfg, show.card_bytes(card, cfg.plan)) for card in cfg.plan.gpus
    }


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
