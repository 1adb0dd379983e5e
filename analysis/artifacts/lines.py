"""The lines of an artifact's table: what each arm says, beside the paper's cell if it has one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.artifacts.effects import Effect, Level, averaged, effect, level, noise_of
from analysis.artifacts.grouping import Arm, Block, arms, blocks, differing, worded
from analysis.artifacts.spec import MARGINS, Artifact, Key
from analysis.findings.runs import Run
from qlora_repro.stats.estimates import Noise
from qlora_repro.store.load import origin

NOT_PRINTED = "-"
BASE = "base"
Cells = Mapping[Key, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of the table."""

    key: Key
    label: str  # of the column: a stand-in is named there
    paper: float | None
    printed_effect: float | None
    level: Level
    seeds: str
    effect: Effect | str
    floor: float | None  # for as many seeds
    marks: tuple[str, ...]  # why it is no figure to publish
    digits: int
    model: str
    runs: tuple[str, ...]  # their folders
    theirs: bool  # the paper's models and benchmark; of others, levels do not compare


def lines_of(artifact: Artifact, paper: Cells, runs: Sequence[Run]) -> Iterator[Line]:
    """Yield a line an arm: the paper's cells, then what stands in for them or is beside them.

    Of a stand-in at least two rows must be there: it is only compared with itself.
    """
    for block, label in labelled(artifact, paper, runs):
        yield from _block(artifact, block, paper, label=label)


def labelled(artifact: Artifact, paper: Cells, runs: Sequence[Run]) -> Iterator[tuple[Block, str]]:
    """Yield each block that is shown with its column's name: printed ones, then the others."""
    found = blocks(artifact, arms(artifact, runs))
    theirs = [block for block in found if printed(artifact, block, paper)]
    kept = [block for block in found if block not in theirs and len(block.rows) > 1]
    for block in theirs:
        yield block, block.column
    for block in kept:
        like = [b for b in kept if (b.column, b.score) == (block.column, block.score)]
        beside = worded(block.shared, differing([b.shared for b in like]))
        label = ", ".join(filter(None, (block.column, block.score.unit, beside)))
        another = block.arms[0].model not in artifact.models
        yield block, f"stand-in {label}" if another else label


def printed(artifact: Artifact, block: Block, paper: Cells) -> bool:
    """Whether a block is a column of the paper's table, by model and benchmark."""
    columns = {column for _, column in paper} | {p for ps in artifact.parts.values() for p in ps}
    theirs = block.arms[0].model in artifact.models and block.score.task in artifact.scores
    return theirs and block.column in columns


def _block(artifact: Artifact, block: Block, paper: Cells, *, label: str) -> Iterator[Line]:
    noise = noise_of(block)
    theirs = printed(artifact, block, paper)
    name = artifact.base(block.rows)
    base = next((arm for arm in block.arms if arm.row == name), None)
    for arm in sorted(block.arms, key=lambda arm: _order(arm.row, paper)):
        alike = [other for other in block.arms if other.row == arm.row]
        beside = worded(arm.settings, differing([other.settings for other in alike]))
        key = (arm.row, block.column)
        yield Line(
            key=key,
            label=label,
            paper=paper.get(key) if theirs else None,
            printed_effect=paper_effect(artifact, paper, arm.row, block.column if theirs else None),
            level=level(arm),
            seeds=str(len(arm.runs)) if arm.tuned else "none trained",
            effect=_against(arm, base, noise),
            floor=noise.floor(len(arm.runs)) if arm.tuned and noise.df else None,
            marks=(*marks(arm), *([beside] if beside else [])),
            digits=artifact.digits if theirs else block.score.digits,
            model=arm.model,
            runs=tuple(run.path.parent.name for run in arm.runs.values()),
            theirs=theirs,
        )


def _order(row: str, paper: Cells) -> float:
    """Return where a row comes: numbers by size, others as printed, those that are not last."""
    printed = [name for name, _ in paper]
    if row.isdigit():
        return float(row)
    return printed.index(row) if row in printed else len(printed)


def _against(arm: Arm, base: Arm | None, noise: Noise) -> Effect | str:
    if base is None:
        return NOT_PRINTED
    if arm is base:
        return BASE
    return effect(arm, base, noise) or "no question in common"


def paper_effect(artifact: Artifact, paper: Cells, row: str, column: str | None) -> float | None:
    """Return the paper's difference from the base row, for a stand-in the mean over columns."""
    name = artifact.base(list(dict.fromkeys(r for r, _ in paper if r not in MARGINS)))
    columns = [column] if column else [c for r, c in paper if r == row and c not in MARGINS]
    found = [
        paper[row, c] - paper[name, c]
        for c in columns
        if name and {(row, c), (name, c)} <= {*paper}
    ]
    return sum(found) / len(found) if found and row != name else None


def marks(arm: Arm) -> tuple[str, ...]:
    """Return why an arm's score is no figure to publish."""
    made = []
    for run in arm.runs.values():
        about = origin(run.path)
        limit = run.asked.get("limit")
        made += ["uncommitted changes"] if about.get("dirty") else []
        made += [f"limit {limit}"] if limit is not None else []
    return tuple(dict.fromkeys(made))


def margin(artifact: Artifact, key: Key, paper: Cells, own: Mapping[Key, Line]) -> Line | None:
    """Return a mean over the cells that it is the mean of, once all of them are measured."""
    row, column = key
    if column in artifact.parts:
        parts = [(row, part) for part in artifact.parts[column]]
    elif column in MARGINS:
        parts = [(r, c) for r, c in paper if r == row and c not in MARGINS]
    elif row in MARGINS:
        parts = [(r, c) for r, c in paper if c == column and r not in MARGINS]
    else:
        return None
    found = [own[part] for part in parts if part in own]
    if len(found) < len(parts):
        return None
    return Line(
        key=key,
        label=column,
        paper=paper[key],
        printed_effect=paper_effect(artifact, paper, row, column),
        level=averaged([line.level for line in found]),
        seeds="/".join(dict.fromkeys(line.seeds for line in found)),
        effect=NOT_PRINTED,
        floor=None,
        marks=tuple(dict.fromkeys(mark for line in found for mark in line.marks)),
        digits=artifact.digits,
        model=found[0].model,
        runs=(),
        theirs=True,
    )
