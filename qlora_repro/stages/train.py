"""stages=[train]: fine-tune the model; rank 0 keeps the weights, and the workers train along."""

import inspect
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import TrainerCallback

from qlora_repro.config.schema import RunConfig, TrainConfig
from qlora_repro.console import note, say
from qlora_repro.data import collators
from qlora_repro.data.tokenization import EncodedExample, encode_examples
from qlora_repro.distributed import fsdp
from qlora_repro.distributed.environment import world_size
from qlora_repro.distributed.process_group import process_group, shared_failure
from qlora_repro.errors import ConfigError
from qlora_repro.manifest import add_training, describe_tuned_model, device_name, record_origin
from qlora_repro.memory.prediction import apply_micro_batch, choose_micro_batch, is_micro_batch_open
from qlora_repro.model.device import resolve_device
from qlora_repro.model.load import LoadedModel
from qlora_repro.records import Example, Manifest
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import ENCODED_ROWS, CellRun, ModelSession, data_key, load_rows
from qlora_repro.store.cell import MANIFEST, STEPS, TRAINED, Cell, find_cell
from qlora_repro.store.runs import Store
from qlora_repro.train.callbacks import ProgressRecorder, TrackerCallback
from qlora_repro.train.checkpoint import CHECKPOINTS
from qlora_repro.train.memory import available_bytes
from qlora_repro.train.trainer import TrainingInputs, runnable_optimizer, train_model

# Families whose attention mask is made from positions, so that packed rows cannot see each other.
PACKABLE = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")


def choose_collator(
    model: Any, tokenizer: Any, *, kind: str, packing: bool, mark_rows: bool = False
) -> collators.Collator:
    """Return the collator for a model of this kind; ConfigError where packing cannot work."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pad = tokenizer.pad_token_id
    if packing and inner.config.model_type not in PACKABLE:
        raise ConfigError(
            f"train.packing=true would let rows see each other in a {inner.config.model_type} "
            f"model; it works for {', '.join(PACKABLE)}"
        )
    if kind == "seq2seq":
        return collators.seq2seq_collator(pad, start_id=inner.config.decoder_start_token_id)
    if kind == "classification":
        return collators.classification_collator(pad)
    trims = "logits_to_keep" in inspect.signature(inner.forward).parameters
    if packing:
        return collators.packed_collator(trims_logits=trims, mark_rows=mark_rows)
    return collators.causal_collator(pad, trims_logits=trims)


def describe_optimizer_change(cfg: TrainConfig, model: nn.Module) -> str | None:
    """Return what to say when the optimizer that was asked for cannot run on this device."""
    device = next(model.parameters()).device.type
    optimizer = runnable_optimizer(cfg.optim, device=device)
    if optimizer == cfg.optim:
        return None
    return f"{cfg.optim} needs CUDA and nothing pages on a CPU; training with {optimizer}"


def check_train(cell: Cell) -> None:
    """Read the training rows, so that bad ones are refused before a model is loaded; DataError."""
    load_rows(cell.cfg)


def run_train(run: CellRun, *, tuned: bool) -> None:
    """Train the model and write its weights, loss curve and manifest, unless the store has them."""
    if not tuned:
        return
    cell, cfg, folder, session = run.cell, run.cell.cfg, run.cell.folder, run.session
    if cell.is_trained(contents=True):
        say(f"training: {SKIPPED}")
        return
    began, (examples, _) = time.monotonic(), load_rows(cfg)
    session.load_for_training()
    rows = _encode_cached_rows(session, examples)
    loaded = session.trainable()
    manifest = describe_tuned_model(cfg, session, rows, examples)
    _say_start(cfg, manifest, loaded.model)
    callbacks = [TrackerCallback(run.tracker), ProgressRecorder(folder.write_progress)]
    job = _build_job(cell, loaded, rows, callbacks)
    with shared_failure():
        if world_size() > 1:
            process_group().send_task({"stage": "train", "config": asdict(cfg), "tuned": True})
        cfg = _prepare_model(cfg, loaded.model, job)
        result = train_model(loaded.model, job, cfg=cfg.train)
    # what was scored and judged of weights that were trained before
    folder.remove(TRAINED, "metrics-*", "generations-*", "judgments-*")
    session.publish(folder.check_held)
    folder.write_records(STEPS, result.steps)
    manifest = manifest.on_device(device_name(loaded.model))  # sharding moved the model
    folder.write_json(MANIFEST, add_training(manifest, result).to_json())
    record_origin(cell.cfg, folder, "train", session=session, began=began)
    folder.write_json(TRAINED, asdict(result))
    session.finish_training()
    folder.remove(CHECKPOINTS)  # nothing is left to resume


def work_train(session: ModelSession, *, tuned: bool) -> None:
    """Train along on a worker; rank 0 keeps the weights, and nothing is written here."""
    cell = find_cell(session.cfg, Store(Path(session.cfg.results_dir)))
    session.load_for_training()
    rows = _encode_cached_rows(session, load_rows(session.cfg)[0])
    loaded = session.trainable()
    job = _build_job(cell, loaded, rows, ())
    cfg = _prepare_model(session.cfg, loaded.model, job)
    train_model(loaded.model, job, cfg=cfg.train)


def describe_futile_settings(cfg: RunConfig, model: nn.Module) -> Iterator[str]:
    """Yield what to say of settings that can be meant and most often are not."""
    if cfg.train.lr == 0:
        yield "train.lr=0: the weights stay as they are"
    layers: list[Any] = [m for m in model.modules() if isinstance(m, LoraLayer)]
    widths = [min(layer.in_features, layer.out_features) for layer in layers]
    narrow = sum(width < cfg.lora.r for width in widths)
    if narrow:
        yield (
            f"lora.r={cfg.lora.r} is above the width of {narrow} of {len(widths)} adapted layers, "
            f"the narrowest {min(widths)}: more ranks than that can say no more"
        )


def _say_start(cfg: RunConfig, manifest: Manifest, model: nn.Module) -> None:
    if change := describe_optimizer_change(cfg.train, model):
        note(change)
    for sentence in describe_futile_settings(cfg, model):
        note(sentence)
    assert manifest.data is not None
    assert manifest.trainable is not None
    say(
        f"training on {manifest.data.rows} rows ({manifest.data.truncated_share:.1%} truncated), "
        f"{manifest.trainable['total']:,} trainable parameters on a model of "
        f"{manifest.base.all_parameters:,}"
    )


def _encode_cached_rows(session: ModelSession, examples: list[Example]) -> list[EncodedExample]:
    cfg, tokenizer = session.cfg, session.base().tokenizer
    rows: list[EncodedExample] = ENCODED_ROWS.get(
        f"{data_key(cfg)} {session.base_key} {len(examples)}",
        lambda: encode_examples(
            examples, tokenizer, cfg.data, kind=cfg.model.kind, num_labels=cfg.model.num_labels
        ),
    )
    return rows


def _build_job(
    cell: Cell,
    loaded: LoadedModel,
    rows: list[EncodedExample],
    callbacks: Sequence[TrainerCallback],
) -> TrainingInputs:
    cfg = cell.cfg
    shards = cfg.train.sharded and world_size() > 1
    return TrainingInputs(
        rows=rows,
        collate=choose_collator(
            loaded.model,
            loaded.tokenizer,
            kind=cfg.model.kind,
            packing=cfg.train.packing,
            mark_rows=cfg.train.loss_mean == "sequence",
        ),
        compute_dtype=cfg.dtype.compute_dtype,
        seed=cfg.seed,
        folder=cell.folder.path / CHECKPOINTS,
        callbacks=[*callbacks, fsdp.Autocast()] if shards else callbacks,
        attention=cfg.model.attention,
        check_held=cell.folder.check_held,
    )


def _prepare_model(cfg: RunConfig, model: Any, job: TrainingInputs) -> RunConfig:
    """Connect the processes; return the configuration with the micro-batch that fits the memory."""
    if world_size() > 1:
        device = resolve_device(cfg.model.device)
        process_group().connect(device)
        if cfg.train.sharded:
            fsdp.shard_model(model, device)
            fsdp.prepare_sharded_training(model)
        else:
            fsdp.exclude_frozen_from_ddp(model)
    if not is_micro_batch_open(cfg.train):
        return cfg
    device = next(model.parameters()).device
    spread = cfg.train.sharded or cfg.model.device == "spread"
    memory = None if spread else available_bytes(device, reserve=cfg.plan.reserve)
    longest = max(map(len, job.rows))
    micro = choose_micro_batch(cfg, memory, length=longest, processes=world_size())
    say(f"{micro.describe()}, as the planner chooses for rows of up to {longest} tokens")
    return apply_micro_batch(cfg, micro)
