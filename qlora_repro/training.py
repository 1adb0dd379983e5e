"""Training a cell: on rank 0, which keeps what comes of it, and on the ranks that train along."""

import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from qlora_repro import manifest
from qlora_repro.config import RunConfig
from qlora_repro.console import note, say
from qlora_repro.data.encode import Row
from qlora_repro.data.sources import examples, fingerprint, split_holdout
from qlora_repro.data.wrong import misanswered
from qlora_repro.finished import SKIPPED
from qlora_repro.kept import ENCODED, EXAMPLES
from qlora_repro.live import Live
from qlora_repro.model.device import resolve_device
from qlora_repro.model.load import Loaded
from qlora_repro.plan.micro_batch import choose_micro_batch, leaves_open, settle_micro_batch
from qlora_repro.ranks import processes
from qlora_repro.records import Example
from qlora_repro.store.done import MANIFEST, STEPS, TRAINED, Cell, find_cell
from qlora_repro.store.identity import decisive
from qlora_repro.store.runs import Store
from qlora_repro.together import in_step, together
from qlora_repro.tracker import Tracker
from qlora_repro.train.checkpoint import CHECKPOINTS
from qlora_repro.train.loop import Job, TrainResult, train
from qlora_repro.train.memory import free_bytes
from qlora_repro.train.shards import Autocast, leave_frozen, ready_for_training, shard
from qlora_repro.train.stage import NoteProgress, TrackLoss, collator, encoded, optimizer_note


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
