"""What training needs from the pipeline: examples as rows, the collator that fits the model.

Training a cell: on rank 0, which keeps what comes of it, and on the ranks that train along.
"""

import inspect
import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro import manifest
from qlora_repro.config.schema import DataConfig, ModelConfig, RunConfig, TrainConfig
from qlora_repro.console import note, say
from qlora_repro.data import collators
from qlora_repro.data.datasets import examples, fingerprint, misanswered, split_holdout
from qlora_repro.data.tokenization import Limits, Row, encode
from qlora_repro.distributed.environment import processes
from qlora_repro.distributed.fsdp import Autocast, leave_frozen, ready_for_training, shard
from qlora_repro.distributed.process_group import in_step, together
from qlora_repro.errors import ConfigError
from qlora_repro.memory.micro_batch import choose_micro_batch, leaves_open, settle_micro_batch
from qlora_repro.model.device import resolve_device
from qlora_repro.model.load import Loaded
from qlora_repro.records import Example
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import ENCODED, EXAMPLES, Live
from qlora_repro.store.cell import MANIFEST, STEPS, TRAINED, Cell, find_cell
from qlora_repro.store.run_id import decisive
from qlora_repro.store.runs import Store
from qlora_repro.train.callbacks import Tracker
from qlora_repro.train.checkpoint import CHECKPOINTS
from qlora_repro.train.memory import free_bytes
from qlora_repro.train.trainer import Job, TrainResult, runnable_optim, train

# Families whose attention mask is made from positions, so that packed rows cannot see each other.
PACKABLE = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")


class TrackLoss(TrainerCallback):
    """Send each step's numbers to the tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on what the Trainer logs."""
        logs = kwargs.get("logs", {})
        self.tracker.log({f"train/{k}": v for k, v in logs.items() if isinstance(v, int | float)})


class NoteProgress(TrainerCallback):
    """Note how far training is, at most once a second: `note` writes it into the run's folder."""

    def __init__(self, note: Callable[..., None]) -> None:
        self.note = note
        self.last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed run counts only what is left to do."""
        self.began, self.first = time.monotonic(), state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the step, and the seconds that are left at the speed so far."""
        now = time.monotonic()
        if now - self.last < 1:
            return
        self.last = now
        a_step = (now - self.began) / (state.global_step - self.first)
        self.note(
            "training",
            step=state.global_step,
            steps=state.max_steps,
            seconds_a_step=a_step,
            seconds_left=a_step * (state.max_steps - state.global_step),
        )


def encoded(
    examples: Sequence[Example], tokenizer: Any, *, model: ModelConfig, cfg: DataConfig
) -> list[Row]:
    """Return the examples in tokens, within the lengths of the data section."""
    limits = Limits(
        max_source_len=cfg.max_source_len,
        max_target_len=cfg.max_target_len,
        train_on_source=cfg.train_on_source,
        truncated_eos=cfg.truncated_eos,
        max_truncated=cfg.max_truncated,
        num_labels=model.num_labels,
    )
    return encode(examples, tokenizer, kind=model.kind, limits=limits)


def collator(
    model: Any, tokenizer: Any, *, kind: str, packing: bool, marks_rows: bool = False
) -> collators.Collate:
    """Return the collator for a model of this kind; ConfigError where packing cannot work."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pad = tokenizer.pad_token_id
    if packing and inner.config.model_type not in PACKABLE:
        raise ConfigError(
            f"train.packing=true would let rows see each other in a {inner.config.model_type} "
            f"model; it works for {', '.join(PACKABLE)}"
        )
    if kind == "seq2seq":
        return collators.seq2seq(pad, start_id=inner.config.decoder_start_token_id)
    if kind == "classification":
        return collators.classification(pad)
    trims = "logits_to_keep" in inspect.signature(inner.forward).parameters
    if packing:
        return collators.packed(trims_logits=trims, marks_rows=marks_rows)
    return collators.causal(pad, trims_logits=trims)


def optimizer_note(cfg: TrainConfig, model: nn.Module) -> str | None:
    """Return what to say when the optimizer that was asked for cannot run on this device."""
    device = next(model.parameters()).device.type
    runs = runnable_optim(cfg.optim, device=device)
    if runs == cfg.optim:
        return None
    return f"{cfg.optim} needs CUDA and nothing pages on a CPU; training with {runs}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries tell each other about renamed attributes off the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def rows_of(cfg: RunConfig) -> tuple[list[Example], list[Example]]:
    """Return (training rows, held-out rows), as far as the stages need any."""
    if not (cfg.train.max_steps and "train" in cfg.stages) and not cfg.data.holdout:
        return [], []

    def read() -> tuple[list[Example], list[Example]]:
        every = examples(cfg.data)
        kept, held_out = split_holdout(every, holdout=cfg.data.holdout, seed=cfg.data.seed)
        return misanswered(kept, share=cfg.data.wrong, seed=cfg.data.seed), held_out

    found: tuple[list[Example], list[Example]] = EXAMPLES.get(_data_name(cfg), read)
    return found


def _data_name(cfg: RunConfig) -> str:
    return json.dumps([decisive(cfg, "train")["data"], cfg.data.max_truncated], sort_keys=True)


def train_cell(cell: Cell, live: Live, rows: list[Example], tracker: Tracker) -> None:
    """Train, and write what came of it, unless the store has it."""
    cfg, folder = cell.cfg, cell.folder
    if cell.trained(contents=True):
        say(f"training: {SKIPPED}")
        return
    began = time.monotonic()
    live.begin_training()
    encoded_rows = _encoded(cfg, live, rows)
    loaded = live.trainable()
    ran = manifest.tuned(cfg, live, encoded_rows, rows, fingerprint(rows))
    said = optimizer_note(cfg.train, loaded.model)
    if said:
        note(said)
    share = ran["data"]["truncated_share"]
    say(
        f"training on {len(rows)} rows ({share:.1%} truncated), "
        f"{ran['trainable']['total']:,} trainable parameters on a model of "
        f"{ran['base']['all_parameters']:,}"
    )
    watch = [TrackLoss(tracker), NoteProgress(folder.note_progress)]
    job = _job(cell, loaded, encoded_rows, watch)
    with in_step():
        if processes() > 1:
            together().order({"work": "train", "config": asdict(cfg)})
        outcome = _train(cfg, loaded.model, job)
    folder.drop(
        TRAINED, "metrics-*", "generations-*", "judgments-*"
    )  # of weights that were trained before
    ran["provenance"]["device"] = manifest.device_name(loaded.model)  # one that was divided moved
    live.publish()
    folder.write(STEPS, outcome.steps)
    folder.write_json(MANIFEST, ran | manifest.trained(outcome))
    manifest.origin(cell.cfg, folder, "train", live=live, began=began)
    folder.write_json(TRAINED, asdict(outcome))
    live.end_training()
    shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)  # nothing is left to take up


def _encoded(cfg: RunConfig, live: Live, rows: list[Example]) -> list[Row]:
    tokenizer = live.base().tokenizer
    found: list[Row] = ENCODED.get(
        f"{_data_name(cfg)} {live.name} {len(rows)}",
        lambda: encoded(rows, tokenizer, model=cfg.model, cfg=cfg.data),
    )
    return found


def _job(cell: Cell, loaded: Loaded, rows: list[Row], watch: Sequence[TrainerCallback]) -> Job:
    cfg, train = cell.cfg, cell.cfg.train
    return Job(
        rows=rows,
        collate=collator(
            loaded.model,
            loaded.tokenizer,
            kind=cfg.model.kind,
            packing=train.packing,
            marks_rows=train.loss_mean == "sequence",
        ),
        compute_dtype=cfg.dtype.compute_dtype,
        seed=cfg.seed,
        folder=cell.folder.path / CHECKPOINTS,
        watch=watch,
    )


def _train(cfg: RunConfig, model: Any, job: Job) -> TrainResult:
    if processes() > 1:
        device = resolve_device(cfg.model.device)
        together().meet(device)
        if cfg.train.sharded:
            shard(model, device)
            ready_for_training(model)
            job = replace(job, watch=[*job.watch, Autocast()])
        else:
            leave_frozen(model)
    return train(model, job, cfg=_settled(cfg, model, job).train)


def _settled(cfg: RunConfig, model: Any, job: Job) -> RunConfig:
    """Return the configuration with the micro-batch that the planner chooses where it is `auto`."""
    if not leaves_open(cfg.train):
        return cfg
    device = next(model.parameters()).device
    divided = cfg.train.sharded or cfg.model.device == "spread"
    memory = None if divided else free_bytes(device, reserve=cfg.plan.reserve)
    longest = max(map(len, job.rows))
    micro = choose_micro_batch(cfg, memory, length=longest, processes=processes())
    say(f"{micro.describe()}, as the planner chooses for rows of up to {longest} tokens")
    return settle_micro_batch(cfg, micro)


def train_along(cfg: RunConfig) -> None:
    """Train a cell on a rank other than 0, which keeps what comes of it; nothing is written."""
    cell = find_cell(cfg, Store(Path(cfg.results_dir)))
    live, done = Live(cfg, cell.folder.path), False
    try:
        with quiet():
            live.begin_training()
            rows = _encoded(cfg, live, rows_of(cfg)[0])
            loaded = live.trainable()
            _train(cfg, loaded.model, _job(cell, loaded, rows, ()))
        done = True
    finally:
        live.release(keep=done)
