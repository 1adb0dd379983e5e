"""The table of an artifact: what each sample group shows, beside the paper's cell if it has one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.artifacts.artifact import (
    MARGINS,
    Artifact,
    ComparableGroups,
    SampleGroup,
    describe_settings,
    differing_settings,
    group_comparable,
    group_samples,
    load_failures,
)
from analysis.artifacts.effects import (
    Effect,
    MeanScore,
    average_means,
    estimate_effect,
    estimate_noise,
    measure_group,
)
from analysis.artifacts.runs import EvaluatedRun, load_evaluated_runs
from analysis.paper_tables import CellKey, list_errata
from analysis.table import Table, format_interval, format_signed
from qlora_repro.stats.estimates import Noise

COLUMNS = (
    "paper",
    "ours",
    "difference",
    "95% interval",
    "n",
    "seeds",
    "effect, paper",
    "effect, ours",
    "noise",
    "verdict",
)
NOT_PRINTED = "-"
BASE = "base"
Cells = Mapping[CellKey, float]


@dataclass(frozen=True, kw_only=True)
class ArtifactRow:
    """One row of the table."""

    key: CellKey
    label: str  # of the column: a stand-in is named there
    printed: float | None
    printed_effect: float | None
    mean: MeanScore
    seeds: str
    effect: Effect | str = NOT_PRINTED
    noise_floor: float | None = None  # for as many seeds
    caveats: tuple[str, ...]  # why it is no figure to publish
    digits: int
    model: str
    runs: tuple[str, ...] = ()  # their folders
    is_papers: bool = True  # the paper's models and benchmark; of others, levels do not compare


def build_artifact_table(artifact: Artifact, results: Path) -> Table:
    """Return every printed cell beside ours, then what stands in or is shown beside it.

    Args:
        artifact: What the table is of.
        results: A results folder, or packed evidence.

    Raises:
        StoreError: There is no such folder.
    """
    printed = artifact.printed_cells()
    runs = load_evaluated_runs(results)
    rows = [
        row
        for comparable, label in label_comparable(artifact, printed, runs)
        for row in _rows_of_comparable(artifact, comparable, printed, label=label)
    ]
    paper_rows = {row.key: row for row in rows if row.is_papers}
    failed = _failed_cells(artifact, results)
    lines = []
    for key in printed:
        row = paper_rows.get(key) or _average_row(artifact, key, printed, paper_rows)
        lines.append(_format_row(row) if row else _missing(artifact, key, printed, failed.get(key)))
    lines += [_format_row(row) for row in rows if row.key not in printed or not row.is_papers]
    return Table(
        title=artifact.title,
        frame=pd.DataFrame(lines, columns=["row", "column", *COLUMNS]).rename(
            columns=dict(zip(("row", "column"), artifact.heads, strict=True))
        ),
        notes=[_count_cells(artifact, printed, paper_rows, failed), *_notes(artifact, rows, runs)],
        runs=tuple(sorted({folder for row in rows for folder in row.runs})),
    )


def label_comparable(
    artifact: Artifact, printed: Cells, runs: Sequence[EvaluatedRun]
) -> Iterator[tuple[ComparableGroups, str]]:
    """Yield comparable groups with the name of their column: the paper's, then stand-ins.

    Of a stand-in at least two rows must be there: it is only compared with itself.
    """
    comparables = group_comparable(artifact, group_samples(artifact, runs))
    papers = [one for one in comparables if _is_papers(artifact, one, printed)]
    others = [one for one in comparables if one not in papers and len(one.rows) > 1]
    for one in papers:
        yield one, one.column
    for one in others:
        alike = [o for o in others if (o.column, o.score) == (one.column, one.score)]
        differing = differing_settings([other.shared for other in alike])
        described = describe_settings(one.shared, differing)
        label = ", ".join(filter(None, (one.column, one.score.unit, described)))
        stands_in = one.groups[0].model not in artifact.models
        yield one, f"stand-in {label}" if stands_in else label


def _is_papers(artifact: Artifact, comparable: ComparableGroups, printed: Cells) -> bool:
    """Whether groups are a column of the paper's table, by model and benchmark."""
    columns = {column for _, column in printed}
    columns.update(part for parts in artifact.parts.values() for part in parts)
    of_paper = comparable.groups[0].model in artifact.models
    return of_paper and comparable.score.task in artifact.scores and comparable.column in columns


def _rows_of_comparable(
    artifact: Artifact, comparable: ComparableGroups, printed: Cells, *, label: str
) -> Iterator[ArtifactRow]:
    noise = estimate_noise(comparable)
    is_papers = _is_papers(artifact, comparable, printed)
    base_row = artifact.base_row(comparable.rows)
    base = next((group for group in comparable.groups if group.row == base_row), None)
    for group in sorted(comparable.groups, key=lambda group: _position(group.row, printed)):
        alike = [other for other in comparable.groups if other.row == group.row]
        differing = differing_settings([other.settings for other in alike])
        described = describe_settings(group.settings, differing)
        key = (group.row, comparable.column)
        yield ArtifactRow(
            key=key,
            label=label,
            printed=printed.get(key) if is_papers else None,
            printed_effect=_printed_effect(
                artifact, printed, group.row, comparable.column if is_papers else None
            ),
            mean=measure_group(group),
            seeds=str(len(group.runs)) if group.is_tuned else "none trained",
            effect=_effect_from(group, base, noise),
            noise_floor=noise.floor(len(group.runs)) if group.is_tuned and noise.df else None,
            caveats=(*list_caveats(group), *filter(None, [described])),
            digits=artifact.digits if is_papers else comparable.score.digits,
            model=group.model,
            runs=tuple(run.folder for run in group.runs.values()),
            is_papers=is_papers,
        )


def _position(row: str, printed: Cells) -> float:
    """Return where a row comes: numbers by size, others as printed, those that are not last."""
    rows = [name for name, _ in printed]
    if row.isdigit():
        return float(row)
    return rows.index(row) if row in rows else len(rows)


def _effect_from(group: SampleGroup, base: SampleGroup | None, noise: Noise) -> Effect | str:
    if base is None:
        return NOT_PRINTED
    if group is base:
        return BASE
    return estimate_effect(group, base, noise) or "no question in common"


def _printed_effect(
    artifact: Artifact, printed: Cells, row: str, column: str | None
) -> float | None:
    """Return the paper's difference from the base row, for a stand-in the mean over columns."""
    base = artifact.base_row(list(dict.fromkeys(r for r, _ in printed if r not in MARGINS)))
    if base is None or row == base:
        return None
    columns = [column] if column else [c for r, c in printed if r == row and c not in MARGINS]
    pairs = [((row, c), (base, c)) for c in columns]
    differences = [printed[a] - printed[b] for a, b in pairs if a in printed and b in printed]
    return sum(differences) / len(differences) if differences else None


def list_caveats(group: SampleGroup) -> tuple[str, ...]:
    """Return why a group's score is no figure to publish."""
    caveats = []
    for run in group.runs.values():
        limit = run.eval_settings.get("limit")
        caveats += ["uncommitted changes"] if run.dirty else []
        caveats += [f"limit {limit}"] if limit is not None else []
    return tuple(dict.fromkeys(caveats))


def _average_row(
    artifact: Artifact, key: CellKey, printed: Cells, paper_rows: Mapping[CellKey, ArtifactRow]
) -> ArtifactRow | None:
    """Return a printed mean over the cells that it is the mean of, once all are measured."""
    row, column = key
    if column in artifact.parts:
        parts = [(row, part) for part in artifact.parts[column]]
    elif column in MARGINS:
        parts = [(r, c) for r, c in printed if r == row and c not in MARGINS]
    elif row in MARGINS:
        parts = [(r, c) for r, c in printed if c == column and r not in MARGINS]
    else:
        return None
    rows = [paper_rows[part] for part in parts if part in paper_rows]
    if len(rows) < len(parts):
        return None
    return ArtifactRow(
        key=key,
        label=column,
        printed=printed[key],
        printed_effect=_printed_effect(artifact, printed, row, column),
        mean=average_means([part.mean for part in rows]),
        seeds="/".join(dict.fromkeys(part.seeds for part in rows)),
        caveats=tuple(dict.fromkeys(caveat for part in rows for caveat in part.caveats)),
        digits=artifact.digits,
        model=rows[0].model,
    )


def _format_row(row: ArtifactRow) -> dict[str, str | None]:
    digits, mean = row.digits, row.mean
    cells: dict[str, str | None] = dict.fromkeys(COLUMNS, NOT_PRINTED)
    cells |= {
        "row": row.key[0],
        "column": row.label,
        "ours": " ".join([f"{mean.value:.{digits}f}", *(f"({note})" for note in row.caveats)]),
        "n": f"{mean.n:,}",
        "seeds": row.seeds,
        "noise": "not known" if row.noise_floor is None else f"{row.noise_floor:.{digits}f}",
    }
    if row.printed is not None:
        cells["paper"] = f"{row.printed:.{digits}f}"
        cells["difference"] = format_signed(mean.value - row.printed, digits)
    if mean.interval is not None:
        cells["95% interval"] = format_interval(mean.interval, digits)
    if row.printed_effect is not None:
        cells["effect, paper"] = format_signed(row.printed_effect, digits)
    if isinstance(row.effect, str):
        cells["effect, ours"] = row.effect
    else:
        estimate = row.effect.estimate
        low, high = (format_signed(end, digits) for end in estimate.interval())
        cells["effect, ours"] = f"{format_signed(estimate.effect, digits)} [{low}, {high}]"
        cells["verdict"] = row.effect.direction
    return cells


def _missing(
    artifact: Artifact, key: CellKey, printed: Cells, state: str | None
) -> dict[str, str | None]:
    effect = _printed_effect(artifact, printed, *key)
    return dict.fromkeys(COLUMNS, NOT_PRINTED) | {
        "row": key[0],
        "column": key[1],
        "paper": f"{printed[key]:.{artifact.digits}f}",
        "ours": state,
        "effect, paper": NOT_PRINTED if effect is None else format_signed(effect, artifact.digits),
    }


def _failed_cells(artifact: Artifact, results: Path) -> dict[CellKey, str]:
    return {
        (cell.row, cell.column): state
        for run, state in load_failures(results)
        if run.model in artifact.models
        for cell in artifact.locate_run(run)
    }


def _count_cells(
    artifact: Artifact,
    printed: Cells,
    paper_rows: Mapping[CellKey, ArtifactRow],
    failed: Mapping[CellKey, str],
) -> str:
    inner = [key for key in printed if not {*key} & {*MARGINS} and key[1] not in artifact.parts]
    measured = sum(key in paper_rows for key in inner)
    failures = sum(key in failed and key not in paper_rows for key in inner)
    note = f"{measured} of the paper's {len(inner)} cells have runs here"
    note += f", {failures} failed" if failures else ""
    presets = artifact.presets or (artifact.stem,)
    commands = " and ".join(f"python run.py experiments={preset}" for preset in presets)
    return note + (f"; for the others: {commands}" if measured < len(inner) else "")


def _notes(
    artifact: Artifact, rows: Sequence[ArtifactRow], runs: Sequence[EvaluatedRun]
) -> list[str]:
    notes = list(artifact.notes)
    if rows:
        notes += [
            "interval: 95%, over questions, and seeds where several trained, Wilson's for right "
            "answers of one; n: questions, or windows of a text",
            "effect: from the base row, on the same questions and seeds; noise: the 95% range of a "
            "difference between repeats with other seeds; an effect within it is not resolved",
        ]
    stand_ins = {row.model for row in rows if not row.is_papers}
    if stand_ins:
        notes.append(
            "stand-in: another model or benchmark than the paper's, so that levels do not compare; "
            "its effect stands beside the mean of the paper's over columns"
        )
        notes += sorted({f"{r.model}: {r.note}" for r in runs if r.note and r.model in stand_ins})
    unscored = sum(row.mean.unscored for row in rows)
    notes += [f"{unscored:,} answers have no score and are left out"] if unscored else []
    return [*notes, *list_errata(artifact.stem)]
