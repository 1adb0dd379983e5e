"""A cell's result as the store has it, read without importing torch or scipy.

The paired tests of a cell are resampled once and kept in `summary-<digest>.json`, beside the
checksums of the files that they were made from.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qlora_repro import __version__
from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, say
from qlora_repro.memory.prediction import expected_peak
from qlora_repro.records import Answer, Manifest, Metric, Paired
from qlora_repro.reporting.run_table import CellResult, ScoreLine, Scores, score_lines, show_result
from qlora_repro.store.cell import MANIFEST, TRAINED, Cell
from qlora_repro.store.integrity import read_checksums
from qlora_repro.store.runs import RunFolder

if TYPE_CHECKING:
    from qlora_repro.judge.win_rates import WinRate

SKIPPED = "in the store, skipped"
SUMMARY_FORMAT = 2  # a summary of another format is made anew


def describe_cell(cfg: RunConfig) -> str:
    """Return a cell in words, for headings and for a sweep's rows."""
    parts = [cfg.label, cfg.dtype.name + (" + dq" if cfg.dq else "")]
    if cfg.dtype.backend == "simulated" and cfg.quantized:
        parts[-1] += " (simulated)"
    if cfg.train.max_steps:
        lora = cfg.lora.target
        parts += ["full fine-tuning" if cfg.full_finetuning else f"lora {lora} r={cfg.lora.r}"]
        parts += [cfg.data.name, f"seed {cfg.seed}"]
    return ", ".join(parts)


def report_stored(cell: Cell) -> CellResult:
    """Say what the store has of a cell that lacks nothing, show it and return it."""
    cfg = cell.cfg
    parts = {
        "scores before tuning": "eval" in cfg.stages,
        "training": "train" in cfg.stages and cell.trains,
        "scores after tuning": "eval" in cfg.stages and cell.trains,
        "answers": "generate" in cfg.stages,
    }
    say(describe_cell(cfg))
    for part, asked in parts.items():
        if asked:
            say(f"{part}: {SKIPPED}")
    note_versions(cell)
    result = load_result(cell)
    show_result(result)
    return result


def note_versions(cell: Cell) -> None:
    """Say which finished stages other versions of packages made."""
    for stage, changed in cell.changed_versions().items():
        note(
            f"{stage}: made with {', '.join(changed)}; taken as they are, and rerun=versions makes "
            "them again"
        )


def load_result(cell: Cell, *, win_rates: Sequence["WinRate"] = ()) -> CellResult:
    """Return what the store has of a cell, as tables show it, with what a judge found."""
    cfg, evaluated = cell.cfg, "eval" in cell.cfg.stages
    before = _load_scores(cell, tuned=False) if evaluated else None
    after = _load_scores(cell, tuned=True) if evaluated and cell.trains else None
    lines = _read_summary(cell) if evaluated else None
    training = _read_json(cell.folder, TRAINED)
    manifest = _read_json(cell.folder, MANIFEST) or _read_json(cell.base, MANIFEST)
    return CellResult(
        label=describe_cell(cfg),
        folder=cell.folder.path,
        model=cfg.model.name,
        note=cfg.note,
        limit=cfg.eval.limit,
        before=before,
        after=after,
        lines=score_lines(before, after) if lines is None else lines,
        manifest=None if manifest is None else Manifest.from_json(manifest),
        training=training,
        predicted=expected_peak(cfg, training),
        win_rates=win_rates,
        judge=cfg.judge.kind,
    )


def write_summary(cell: Cell, result: CellResult) -> None:
    """Keep the paired tests of a cell, for whoever holds its lock.

    With summaries 100 finished cells of eight questions take 34 s instead of 40 s.
    """
    if result.lines and _read_summary(cell) is None:
        summary = {"of": _summary_sources(cell), "lines": [asdict(line) for line in result.lines]}
        cell.folder.write_json(_summary_name(cell), summary)


def _read_summary(cell: Cell) -> list[ScoreLine] | None:
    summary = _read_json(cell.folder, _summary_name(cell))
    if summary is None or summary["of"] != _summary_sources(cell):
        return None
    lines = []
    for line in summary["lines"]:
        comparison, interval = line["comparison"], line["interval"]
        line["comparison"] = Paired(**comparison) if comparison else None
        line["interval"] = tuple(interval) if interval else interval
        lines.append(ScoreLine(**line))
    return lines


def _summary_name(cell: Cell) -> str:
    return f"summary-{cell.digest(tuned=cell.trains, stage='eval')}.json"


def _summary_sources(cell: Cell) -> dict[str, Any]:
    """Return the checksums of what the tests are made from, and the version that tests."""
    sources: dict[str, Any] = {"version": __version__, "form": SUMMARY_FORMAT}
    for tuned in {False, cell.trains}:
        digest = cell.digest(tuned=tuned, stage="eval")
        entries = read_checksums(cell.folder_of(tuned=tuned).path) or {}
        for kind in ("answers", "metrics"):
            sources[f"{kind}-{digest}"] = entries.get(f"{kind}-{digest}.jsonl")
    return sources


def _load_scores(cell: Cell, *, tuned: bool) -> Scores | None:
    folder, digest = cell.folder_of(tuned=tuned), cell.digest(tuned=tuned, stage="eval")
    metrics, answers = f"metrics-{digest}.jsonl", f"answers-{digest}.jsonl"
    if not (folder.has(metrics) and folder.has(answers)):
        return None
    return Scores(
        metrics=folder.read_records(metrics, Metric), answers=folder.read_records(answers, Answer)
    )


def _read_json(folder: RunFolder, name: str) -> Any:
    return folder.read_json(name) if folder.has(name) else None
