"""A cell as the store has it: what a finished one shows without importing torch or scipy.

The paired tests of a cell are resampled once and kept in `summary-<digest>.json`, beside the
digests of the files that they were made from.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from qlora_repro import __version__
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, say
from qlora_repro.judge.result_table import Standing
from qlora_repro.memory.prediction import foretold
from qlora_repro.records import Answer, Metric, Paired
from qlora_repro.reporting.run_table import CellResult, Line, Scores
from qlora_repro.store.cell import MANIFEST, TRAINED, Cell
from qlora_repro.store.integrity import entered
from qlora_repro.store.runs import Folder

SKIPPED = "in the store, skipped"
FORM = 2  # of a summary; one of another form is made anew
STAGES = {  # what is skipped -> the stage that asks for it, and whether only a trained cell has it
    "scores before tuning": ("eval", False),
    "training": ("train", True),
    "scores after tuning": ("eval", True),
    "answers": ("generate", False),
}


def describe(cfg: RunConfig) -> str:
    """Return a cell in words, for headings and for a sweep's rows."""
    parts = [cfg.label, cfg.dtype.name + (" + dq" if cfg.dq else "")]
    if cfg.dtype.backend == "simulated" and cfg.quantized:
        parts[-1] += " (simulated)"
    if cfg.train.max_steps:
        lora = cfg.lora.target
        parts += ["full fine-tuning" if cfg.full_finetuning else f"lora {lora} r={cfg.lora.r}"]
        parts += [cfg.data.name, f"seed {cfg.seed}"]
    return ", ".join(parts)


def skipped(cell: Cell) -> CellResult:
    """Say what is in the store of a cell that lacks nothing, and return what it shows."""
    say(describe(cell.cfg))
    for name, (stage, tuned) in STAGES.items():
        if stage in cell.cfg.stages and (cell.trains or not tuned):
            say(f"{name}: {SKIPPED}")
    say_versions(cell)
    return result(cell)


def say_versions(cell: Cell) -> None:
    """Say which finished stages other versions of packages made."""
    for stage, changed in cell.made_by_others().items():
        note(
            f"{stage}: made with {', '.join(changed)}; taken as they are, and rerun=versions makes "
            "them again"
        )


def result(cell: Cell, *, judged: Sequence[Standing] = ()) -> CellResult:
    """Return what the store has of a cell, as tables show it, and what a judge said of it."""
    cfg, scored = cell.cfg, "eval" in cell.cfg.stages
    before = _scores(cell, tuned=False) if scored else None
    after = _scores(cell, tuned=True) if scored and cell.trains else None
    training = _read(cell.folder, TRAINED)
    made = CellResult(
        label=describe(cfg),
        folder=cell.folder.path,
        model=cfg.model.name,
        note=cfg.note,
        limit=cfg.eval.limit,
        before=before,
        after=after,
        manifest=_read(cell.folder, MANIFEST) or _read(cell.base, MANIFEST),
        training=training,
        predicted=foretold(cfg, training),
        judged=judged,
        judge=cfg.judge.kind,
    )
    kept = _summary(cell)
    if kept is not None:
        made.__dict__["lines"] = kept  # in place of what the property would compute
    return made


def summarize(cell: Cell, made: CellResult) -> None:
    """Keep the paired tests of a cell; the caller holds its claim."""
    if _summary(cell) is None and (made.before or made.after):
        document = {"of": _sources(cell), "lines": [asdict(line) for line in made.lines]}
        cell.folder.write_json(_summary_name(cell), document)


def _summary(cell: Cell) -> list[Line] | None:
    name = _summary_name(cell)
    found = _read(cell.folder, name) if "eval" in cell.cfg.stages else None
    if found is None or found["of"] != _sources(cell):
        return None
    lines = []
    for line in found["lines"]:
        compared = line["comparison"]
        alone = line["interval"] and tuple(line["interval"])
        made = {"comparison": Paired(**compared) if compared else None, "interval": alone}
        lines.append(Line(**line | made))
    return lines


def _summary_name(cell: Cell) -> str:
    return f"summary-{cell.digest(tuned=cell.trains, stage='eval')}.json"


def _sources(cell: Cell) -> dict[str, Any]:
    """Return the entries of the files that the tests are made from, and the version that tests."""
    found: dict[str, Any] = {"version": __version__, "form": FORM}
    for tuned in {False, cell.trains}:
        digest = cell.digest(tuned=tuned, stage="eval")
        entries = entered(cell.of(tuned=tuned).path) or {}
        for kind in ("answers", "metrics"):
            found[f"{kind}-{digest}"] = entries.get(f"{kind}-{digest}.jsonl")
    return found


def _scores(cell: Cell, *, tuned: bool) -> Scores | None:
    folder, digest = cell.of(tuned=tuned), cell.digest(tuned=tuned, stage="eval")
    metrics, answers = f"metrics-{digest}.jsonl", f"answers-{digest}.jsonl"
    if not (folder.has(metrics) and folder.has(answers)):
        return None
    return Scores(metrics=folder.read(metrics, Metric), answers=folder.read(answers, Answer))


def _read(folder: Folder, name: str) -> Any:
    return folder.read_json(name) if folder.has(name) else None
