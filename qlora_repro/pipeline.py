"""The stages in order: base model -> scores before -> training -> scores after -> answers.

Stages meet only in the store: each looks there first, and what is finished is not done again.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qlora_repro import manifest
from qlora_repro.config import RunConfig
from qlora_repro.console import note, progress, say
from qlora_repro.data.sources import examples, fingerprint, split_holdout
from qlora_repro.errors import ConfigError
from qlora_repro.eval.reference import reference
from qlora_repro.eval.stage import Beside, score
from qlora_repro.generate import generate, read_questions
from qlora_repro.live import Live
from qlora_repro.measure.stage import measure
from qlora_repro.merge import merge
from qlora_repro.model.load import Loaded
from qlora_repro.plan.stage import foretold
from qlora_repro.records import Answer, Example, Metric
from qlora_repro.report import CellResult, Scores, show
from qlora_repro.store.identity import decisive, key, slug
from qlora_repro.store.runs import Folder, open_store
from qlora_repro.tracker import Tracker, tracking
from qlora_repro.train.loop import Job, train
from qlora_repro.train.stage import TrackLoss, collator, encoded, optimizer_note

MANIFEST = "manifest.json"
STEPS = "steps.jsonl"  # the loss curve
CHECKPOINTS = "checkpoints"
TRAINED = "train.json"  # written last: the mark that training is done


def run(cfg: RunConfig) -> CellResult:
    """Run one cell's stages, skip what the store has, show the table, and return what it shows."""
    store = open_store(cfg.results_dir)
    base = store.folder(slug(cfg, tuned=False), key(cfg, "untuned"))
    cell = store.folder(slug(cfg, tuned=True), key(cfg, "train")) if cfg.train.max_steps else base
    say(describe(cfg))
    live = Live(cfg, cell.path)
    tracked = tracking(
        cfg.tracker, name=cell.path.name, config=decisive(cfg, "train"), folder=cell.path
    )
    try:
        with quiet(), tracked as tracker:
            result = _stages(cfg, base=base, cell=cell, live=live, tracker=tracker)
    finally:
        live.release()
    show(result)
    return result


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries tell each other about renamed attributes off the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _stages(
    cfg: RunConfig, *, base: Folder, cell: Folder, live: Live, tracker: Tracker
) -> CellResult:
    if "measure" in cfg.stages:
        with base.locked(wait=True):
            _measure(cfg, base, live)
    rows, held_out = _rows(cfg)
    before = after = None
    if "eval" in cfg.stages:
        with base.locked(wait=True):
            before = _evaluate(cfg, base, live, tuned=False, held_out=held_out)
    if cell is not base:
        with cell.locked():
            if "train" in cfg.stages:
                _train(cfg, cell, live, rows, tracker)
            if "eval" in cfg.stages:
                after = _evaluate(cfg, cell, live, tuned=True, held_out=held_out)
            if cfg.merge:
                merge(live)
    if "generate" in cfg.stages:
        _generate(cfg, cell, live, tuned=cell is not base)
    _track(tracker, before=before, after=after)
    training = _read(cell, TRAINED)
    return CellResult(
        label=describe(cfg),
        folder=cell.path,
        model=cfg.model.name,
        note=cfg.model.note,
        limit=cfg.eval.limit,
        before=before,
        after=after,
        manifest=_read(cell, MANIFEST) or _read(base, MANIFEST),
        training=training,
        predicted=foretold(cfg, training),
    )


def _rows(cfg: RunConfig) -> tuple[list[Example], list[Example]]:
    """Return (training rows, held-out rows), as far as the stages need any."""
    if not (cfg.train.max_steps and "train" in cfg.stages) and not cfg.data.holdout:
        return [], []
    return split_holdout(examples(cfg.data), holdout=cfg.data.holdout, seed=cfg.data.seed)


def _track(tracker: Tracker, **scores: Scores | None) -> None:
    for when, found in scores.items():
        for metric in found.metrics if found else []:
            if metric.value is not None:
                tracker.log({f"{when}/{metric.task}/{metric.name}": metric.value})


def describe(cfg: RunConfig) -> str:
    """Return a cell in words, for headings and for a sweep's rows."""
    parts = [cfg.model.name, cfg.dtype.name + (" + dq" if cfg.dq else "")]
    if cfg.dtype.backend == "simulated" and cfg.quantized:
        parts[-1] += " (simulated)"
    if cfg.train.max_steps:
        lora = cfg.lora.target
        parts += ["full fine-tuning" if cfg.full_finetuning else f"lora {lora} r={cfg.lora.r}"]
        parts += [cfg.data.name, f"seed {cfg.seed}"]
    return ", ".join(parts)


def _read(folder: Folder, name: str) -> Any:
    return folder.read_json(name) if folder.has(name) else None


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
        _describe_base(cfg, folder, loaded)
        folder.write_json(f"settings-{digest}.json", decisive(cfg, "measure"))
        return loaded.model

    measure(folder, cfg.measure, digest=digest, load=load)


def _describe_base(cfg: RunConfig, folder: Folder, loaded: Loaded) -> None:
    if not folder.has(MANIFEST):
        folder.write_json(MANIFEST, manifest.base(cfg, loaded))


def _evaluate(
    cfg: RunConfig, folder: Folder, live: Live, *, tuned: bool, held_out: list[Example]
) -> Scores:
    """Return the scores of the untuned or the tuned model, from the store where it has them."""
    stage = "eval" if tuned else "untuned_eval"
    digest = key(cfg, stage)
    answers, metrics = f"answers-{digest}.jsonl", f"metrics-{digest}.jsonl"
    when = "after tuning" if tuned else "before tuning"
    if tuned and not folder.has(TRAINED):
        raise ConfigError(
            f"{folder.path} has not been trained; add train to stages, or train=none to score the "
            "untuned model alone"
        )
    if folder.has(metrics):
        say(f"scores {when}: in the store, skipped")
    else:
        loaded = live.tuned() if tuned else live.base()
        if not tuned:
            _describe_base(cfg, folder, loaded)
        with progress(f"scores {when}") as on_progress:
            found, rows = score(
                loaded.model,
                loaded.tokenizer,
                cfg.eval,
                run_id=folder.run_id,
                beside=Beside(
                    held_out=held_out,
                    reference=None if tuned else reference(cfg.model, cfg.dtype, cfg.eval),
                ),
                on_progress=on_progress,
            )
        folder.write_json(f"settings-{digest}.json", decisive(cfg, stage))
        folder.write(answers, rows)
        folder.write(metrics, found)  # last: the mark that this evaluation is done
    return Scores(metrics=folder.read(metrics, Metric), answers=folder.read(answers, Answer))


def _train(
    cfg: RunConfig, folder: Folder, live: Live, rows: list[Example], tracker: Tracker
) -> None:
    if folder.has(TRAINED):
        say("training: in the store, skipped")
        return
    tokenizer = live.base().tokenizer
    encoded_rows = encoded(rows, tokenizer, model=cfg.model, cfg=cfg.data)
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
    job = Job(
        rows=encoded_rows,
        collate=collator(loaded.model, tokenizer, kind=cfg.model.kind, packing=cfg.train.packing),
        compute_dtype=cfg.dtype.compute_dtype,
        seed=cfg.seed,
        folder=folder.path / CHECKPOINTS,
        watch=[TrackLoss(tracker)],
    )
    result = train(loaded.model, job, cfg=cfg.train)
    live.publish()
    folder.write(STEPS, result.steps)
    folder.write_json(MANIFEST, ran | manifest.trained(result))
    folder.write_json(TRAINED, asdict(result))
    shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)  # nothing is left to take up


def _generate(cfg: RunConfig, folder: Folder, live: Live, *, tuned: bool) -> None:
    digest = key(cfg, "generate" if tuned else "untuned_generate")
    name = f"generations-{digest}.jsonl"
    if folder.has(name):
        say("answers: in the store, skipped")
        return
    questions = read_questions(str(cfg.generate.questions))
    loaded: Loaded = live.tuned() if tuned else live.base()
    say(f"answering {len(questions[: cfg.generate.limit])} questions")
    written = generate(
        loaded.model,
        loaded.tokenizer,
        questions,
        cfg.generate,
        run_id=folder.run_id,
        seed=cfg.seed,
    )
    folder.write(name, written)
    say(f"answers lie in {Path(folder.path / name)}")
