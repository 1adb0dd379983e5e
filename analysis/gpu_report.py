"""python -m analysis gpu: what `make gpu-report` measured, as markdown that fits a terminal."""

import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from qlora_repro.config.paths import GPU_REPORTS
from qlora_repro.console import say
from qlora_repro.errors import StoreError
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.runs import read_json

REPORT = "report.json"
FORMAT = 1
NONE_YET = "no GPU report yet: make gpu-report on a machine with a GPU writes one"
WIDTH = 80  # columns of the terminal
LONG = 40  # characters; a text cell that is longer stands below its table
DIGITS = 4  # significant
UNITS = {"_bytes": " GB", "_gb_per_s": " GB/s", "_tflops": " TFLOP/s", "_s": " s"}
GB = 1e9
PART_FIELDS = ("number", "name", "state", "seconds", "limit_s")
STATES = ("passed", "failed", "timed out", "skipped")


Grid = list[list[str]]  # lines of cells as text, heads first


def show_reports(source: Path, out: Path) -> None:
    """Print every report, and write each as markdown; StoreError for damaged ones at the end."""
    damaged: list[StoreError] = []
    paths = find_reports(source)
    for path in paths:
        try:
            report = read_report(path)
        except StoreError as error:
            damaged.append(error)
            continue
        say(render_report(report, WIDTH))
        written = out / f"gpu_{path.parent.name or 'report'}.md"
        write_atomic(written, render_report(report))
        say(f"{written}: the same, its tables whole")
    if not paths:
        say(NONE_YET)
    if damaged:
        raise StoreError("; ".join(map(str, damaged)))


def find_reports(source: Path) -> list[Path]:
    """Return a report's file, or those of a folder: its own and those of its folders, by name.

    Raises StoreError where a path that is not the default does not exist.
    """
    if source.is_file():
        return [source]
    if not source.is_dir() and source != GPU_REPORTS:
        raise StoreError(f"--results {source} is not there; name a {REPORT} or a folder of them")
    return sorted([*source.glob(REPORT), *source.glob(f"*/{REPORT}")])


def read_report(path: Path) -> dict[str, Any]:
    """Read one report; StoreError, in a sentence, for a file that is none."""
    report = read_json(path)
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        version = report.get("format") if isinstance(report, dict) else None
        raise StoreError(f"{path} is no GPU report of format {FORMAT}, but of {version}")
    parts = report.get("parts")
    if not isinstance(parts, list) or not all(map(_is_part, parts)):
        raise StoreError(f"{path} is damaged: its parts are not as a GPU report has them")
    report["parts"] = sorted(parts, key=_part_number)
    return report


def _part_number(part: Mapping[str, Any]) -> float:
    number = part.get("number")
    return float(number) if is_number(number) else math.inf


def _is_part(part: Any) -> bool:
    return (
        isinstance(part, dict)
        and isinstance(part.get("name"), str)
        and isinstance(part.get("state"), str)
        and isinstance(part.get("facts") or {}, dict)
        and isinstance(rows := part.get("rows") or [], list)
        and all(isinstance(row, dict) for row in rows)
    )


def render_report(report: Mapping[str, Any], width: int | None = None) -> str:
    """Return a report as markdown, its tables split where they are wider than `width` columns."""
    lines = [f"# GPU report: {describe_device(report)}", ""]
    lines += wrap_items(summarize(report), width)
    parts = [[format_value(part.get(name)) for name in PART_FIELDS] for part in report["parts"]]
    lines += ["", *render_grid([["part", "what", "state", "s", "limit s"], *parts], width)]
    for part in report["parts"]:
        lines += ["", *render_part(part, width)]
    return "\n".join(lines) + "\n"


def describe_device(report: Mapping[str, Any]) -> str:
    """Return the card, and that a dry run is one.

    >>> describe_device({"card": None, "tiny": True})
    'dry run on a CPU, tiny shapes: a test of the report, no measurement'
    >>> describe_device({"card": "NVIDIA H200", "tiny": False})
    'NVIDIA H200'
    """
    card = str(report.get("card") or "dry run on a CPU")
    if report.get("tiny"):
        return f"{card}, tiny shapes: a test of the report, no measurement"
    return card


def summarize(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield what holds for the whole report, a line each: parts, card, code, versions, rates."""
    counts = Counter(part["state"] for part in report["parts"])
    states = [*STATES, *sorted(set(counts) - set(STATES))]
    yield f"parts: {', '.join(f'{counts[s]} {s}' for s in states if counts[s]) or 'none'}"
    memory, driver = report.get("memory_bytes"), report.get("driver")
    if is_number(memory):
        yield f"memory: {format_value(memory / GB)} GB"
    if driver:
        yield f"driver: {driver}"
    dirty = ", with uncommitted changes: not figures to publish" if report.get("dirty") else ""
    yield f"code: {str(report.get('commit') or 'unknown')[:12]}{dirty}"
    if report.get("started"):
        yield f"started: {report['started']}"
    for name in ("packages", "rates"):
        if isinstance(report.get(name), dict) and report[name]:
            yield f"{name}: {', '.join(format_facts(report[name]))}"


def format_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield each fact with its unit.

    >>> facts = {"peak_bytes": 47_950_000_000, "copy_gb_per_s": 2534.56, "torch": "2.11"}
    >>> list(format_facts(facts))
    ['peak 47.95 GB', 'copy 2,535 GB/s', 'torch 2.11']
    """
    for name, value in facts.items():
        label, unit = split_unit(name)
        text = format_cell(name, value)
        yield f"{label} {text}{unit if is_number(value) else ''}"


def split_unit(name: str) -> tuple[str, str]:
    """Return a column's label and its unit, "" where its name ends in none.

    >>> split_unit("peak_bytes"), split_unit("micro_batch")
    (('peak', ' GB'), ('micro batch', ''))
    """
    for ending, unit in UNITS.items():
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending).replace("_", " "), unit
    return name.replace("_", " "), ""


def format_cell(name: str, value: Any) -> str:
    """Return a value as its column shows it: bytes as GB."""
    return format_value(value / GB if name.endswith("_bytes") and is_number(value) else value)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_value(value: Any) -> str:
    """Return a value as text: four significant digits of a float, "-" for none.

    >>> [format_value(x) for x in (1234567.0, 12.34567, 0.000123456, 8192, None, True, [1])]
    ['1,235,000', '12.35', '0.0001235', '8,192', '-', 'yes', '[1]']
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if math.isfinite(value) and 10 ** (DIGITS - 1) <= abs(value) < 1e12:
            return f"{float(f'{value:.{DIGITS}g}'):,.0f}"
        return f"{value:.{DIGITS}g}"
    return value if isinstance(value, str) else json.dumps(value)


def render_part(part: Mapping[str, Any], width: int | None) -> list[str]:
    """Return a part: heading, state and why, facts, rows."""
    number = part.get("number")
    heading = part["name"] if number is None else f"{number}. {part['name']}"
    why = " ".join(str(part.get("why") or "").split())
    lines = [f"## {heading}", ""]
    lines += textwrap.wrap(f"{part['state']}{f': {why}' if why else ''}", width or 10**9)
    facts = wrap_items(format_facts(part.get("facts") or {}), width)
    lines += ["", *facts] if facts else []
    rows = part.get("rows") or []
    if rows:
        grid, below = build_rows_grid(rows)
        lines += ["", *render_grid(grid, width)]
        lines += ["", *wrap_items(below, width)] if below else []
    return lines


def build_rows_grid(rows: Sequence[Mapping[str, Any]]) -> tuple[Grid, list[str]]:
    """Return rows as cells, in the order in which columns first occur, and texts too long for one.

    A column with a text that is longer than LONG stands below the table, by the row's first cell.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = {name: [_one_line(format_cell(name, row.get(name))) for row in rows] for name in names}
    long = [name for name in names[1:] if max(map(len, cells[name])) > LONG]
    short = [name for name in names if name not in long]
    below = [
        f"{cells[names[0]][index]}, {split_unit(name)[0]}: {cells[name][index]}"
        for name in long
        for index, row in enumerate(rows)
        if row.get(name) is not None
    ]
    columns = [["".join(split_unit(name)), *cells[name]] for name in short]
    return [list(line) for line in zip(*columns, strict=True)], below


def _one_line(text: str) -> str:
    return " ".join(text.split())


def render_grid(grid: Grid, width: int | None) -> list[str]:
    """Return markdown; one that is too wide is split, its first column repeated in each table."""
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in grid]
    columns = [_pad_cells(cells) for cells in zip(*escaped, strict=True)]
    columns[0] = _pad_cells([line[0] for line in escaped], left=True)
    lines: list[str] = []
    for group in split_columns([len(column[0]) for column in columns], width):
        lines += [""] if lines else []
        rows = zip(*(columns[at] for at in group), strict=True)
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return lines


def _pad_cells(cells: Sequence[str], *, left: bool = False) -> list[str]:
    """Return the cells of a column at one width, with the rule below its head."""
    size = max(3, *map(len, cells))
    head, *rest = [cell.ljust(size) if left else cell.rjust(size) for cell in cells]
    return [head, "-" * size if left else "-" * (size - 1) + ":", *rest]


def split_columns(sizes: Sequence[int], width: int | None) -> list[list[int]]:
    """Return the columns of each table: as many as fit beside the first, one at the least.

    >>> split_columns([10, 20, 20, 20], 60), split_columns([10, 20, 20, 20], None)
    ([[0, 1, 2], [0, 3]], [[0, 1, 2, 3]])
    """
    groups = [[0]]
    for column in range(1, len(sizes)):
        line = 1 + sum(sizes[at] + 3 for at in (*groups[-1], column))
        if width is not None and line > width and len(groups[-1]) > 1:
            groups.append([0])
        groups[-1].append(column)
    return groups


def wrap_items(texts: Iterable[str], width: int | None) -> list[str]:
    """Return a list's lines, its items broken at `width`."""
    wrapper = textwrap.TextWrapper(
        width or 10**9, initial_indent="- ", subsequent_indent="  ", break_long_words=False
    )
    return [line for text in texts for line in wrapper.wrap(text)]
