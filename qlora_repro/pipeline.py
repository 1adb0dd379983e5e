"""The stages in order: base model -> scores before -> training -> scores after -> answers.

Stages meet only in the store: each looks there first, and what is finished is not done again.
"""

import time
from pathlib import Path
from typing import Any

from qlora_repro import manifest
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, progress, say
from qlora_repro.distributed.process_group import in_step
from qlora_repro.errors import ConfigError
from qlora_repro.eval.evaluate import Beside, score
from qlora_repro.eval.perplexity import reference
from qlora_repro.records import Example
from qlora_repro.reporting.run_table import CellResult, Scores, show
from qlora_repro.reporting.stored_result import SKIPPED, describe, result, say_versions, summarize
from qlora_repro.session import Live
from qlora_repro.stages import generate
from qlora_repro.stages.measure import measure
from qlora_repro.stages.merge import merge
from qlora_repro.stages.train import quiet, rows_of, train_cell
from qlora_repro.store.cell import MANIFEST, Cell, find_cell
from qlora_repro.store.run_id import decisive, key
from qlora_repro.store.runs import Folder, Store, open_store
from qlora_repro.train.callbacks import Tracker, tracking


def run(cfg: RunConfig, *, wait: bool = True) -> CellResult:
    """Run one cell's stages, skip what the store has, show the table, and return what it shows.

    Raises Busy, without `wait`, when another process works on the same cell.
    """
    cell = find_cell(cfg, open_store(cfg.results_dir, told=note))
    say(describe(cfg))
    say_versions(cell)
    live = Live(cfg, cell.folder.path)
    tracked = tracking(
        cfg.tracker,
        name=cell.folder.path.name,
        config=decisive(cfg, "train"),
        folder=cell.folder.path,
    )
    found = None
    try:
        with quiet(), cell.claimed(wait=wait), tracked as tracker:
            found = _stages(cell, live, tracker)
    finally:
        live.release(keep=found is not None)
    show(found)
    return found


def _stages(cell: Cell, live: Live, tracker: Tracker) -> CellResult:
    cfg = cell.cfg
    generate.foresee(cell)
    if "measure" in cfg.stages:
        with cell.base_claimed():
            _measure(cfg, cell.base, live)
    rows, held_out = rows_of(cfg)
    if "eval" in cfg.stages:
        with cell.base_claimed():
            _evaluate(cell, live, tuned=False, held_out=held_out)
    if cell.trains:
        generate.answer_for_judge(cell, live)
        if "train" in cfg.stages:
            train_cell(cell, live, rows, tracker)
        if "eval" in cfg.stages:
            _evaluate(cell, live, tuned=True, held_out=held_out)
        if cfg.merge:
            merge(live)
    generate.answer(cell, live, tuned=cell.trains)
    found = result(cell, judged=generate.judged(cell))
    _track(tracker, before=found.before, after=found.after)
    summarize(cell, found)
    return found


def _track(tracker: Tracker, **scores: Scores | None) -> None:
    for when, found in scores.items():
        for metric in found.metrics if found else []:
            if metric.value is not None:
                tracker.log({f"{when}/{metric.task}/{metric.name}": metric.value})


def _measure(cfg: RunConfig, folder: Folder, live: Live) -> None:
    """Measure the 16-bit base model's weights."""
    if cfg.quantized:
        raise ConfigError(
            f"stages has measure, which looks at 16-bit weights, and dtype is {cfg.dtype.name}; "
            "use dtype=bf16 or dtype=fp32, and name types in measure.dtypes"
        )

    digest = key(cfg, "measure")

    def load() -> Any:
        loaded = live.base()
        if not folder.has(MANIFEST):
            folder.write_json(MANIFEST, manifest.base(cfg, loaded))
        folder.write_json(f"settings-{digest}.json", decisive(cfg, "measure"))
        return loaded.model

    measure(folder, cfg.measure, digest=digest, load=load)


def _evaluate(cell: Cell, live: Live, *, tuned: bool, held_out: list[Example]) -> None:
    """Score the untuned or the tuned model, unless the store has the scores."""
    cfg, folder = cell.cfg, cell.of(tuned=tuned)
    digest = cell.digest(tuned=tuned, stage="eval")
    answers, metrics = f"answers-{digest}.jsonl", f"metrics-{digest}.jsonl"
    when = "after tuning" if tuned else "before tuning"
    if tuned and not cell.trained():
        raise ConfigError(
            f"{folder.path} has not been trained; add train to stages, or train=none to score the "
            "untuned model alone"
        )
    if cell.scored(tuned=tuned):
        say(f"scores {when}: {SKIPPED}")
        return
    began = time.monotonic()
    loaded = live.to_score(tuned=tuned)
    described = None if tuned or folder.has(MANIFEST) else manifest.base(cfg, loaded)
    folder.note_progress(f"scores {when}")
    with in_step(), progress(f"scores {when}") as on_progress:
        loaded = live.divide("score", tuned=tuned)
        if described is not None:
            described["provenance"]["device"] = manifest.device_name(loaded.model)
            folder.write_json(MANIFEST, described)
        found, rows = score(
            loaded.model,
            loaded.tokenizer,
            cfg.eval,
            run_id=folder.run_id,
            beside=Beside(
                held_out=held_out,
                reference=None if tuned else reference(cfg.model, cfg.dtype, cfg.eval),
                distribute=live.distribute,
            ),
            on_progress=on_progress,
        )
    folder.drop(metrics)
    folder.write_json(f"settings-{digest}.json", decisive(cfg, "eval" if tuned else "untuned_eval"))
    folder.write(answers, rows)
    manifest.origin(cell.cfg, folder, digest, live=live, began=began)
    folder.write(metrics, found)  # last: the mark that this evaluation is done


def score_along(cfg: RunConfig, *, tuned: bool) -> None:
    """Score along on a rank other than 0, which keeps the scores; nothing is written."""
    live = Live(cfg, find_cell(cfg, Store(Path(cfg.results_dir))).folder.path)
    done = False
    try:
        with quiet():
            held_out = rows_of(cfg)[1]
            live.to_score(tuned=tuned)
            loaded = live.divide("score", tuned=tuned)
            alone = tuned or live.divides  # rank 0 compares a model in shards
            beside = Beside(
                held_out=held_out,
                reference=None if alone else reference(cfg.model, cfg.dtype, cfg.eval),
                distribute=live.distribute,
            )
            score(loaded.model, loaded.tokenizer, cfg.eval, run_id="", beside=beside)
        done = True
    finally:
        live.release(keep=done)
