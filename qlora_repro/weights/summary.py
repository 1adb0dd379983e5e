"""What a run that measured shows at its end."""

from collections.abc import Sequence

from rich.table import Table

from qlora_repro.records import Normality, QuantErrors


def errors_table(rows: Sequence[QuantErrors]) -> Table:
    """Return a row a type and block size: its errors by source, weights averaged by their size.

    Errors are mean squares in units of absmax, in thousandths, each with its ratio to the optimum
    of as many levels where that is known.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    table = Table(title="mean squared error, 1e-3 absmax^2 (over the optimum's)")
    for name in ("type", "block"):
        table.add_column(name)
    for name in sources:
        table.add_column(name, justify="right")
    kinds = dict.fromkeys((row.dtype, row.dq, row.blocksize) for row in rows)
    for dtype, dq, blocksize in kinds:
        cells = []
        for source in sources:
            found = [
                row
                for row in rows
                if (row.source, row.dtype, row.dq, row.blocksize) == (source, dtype, dq, blocksize)
            ]
            cells.append(_error(found))
        table.add_row(dtype + (" + dq" if dq else ""), str(blocksize), *cells)
    return table


def _error(rows: Sequence[QuantErrors]) -> str:
    n = sum(row.n for row in rows)
    if not n:
        return "-"
    mse = sum(row.mse * row.n for row in rows) / n
    text = f"{1e3 * mse:.3f}"
    best = [row.optimum * row.n for row in rows if row.optimum is not None]
    if len(best) < len(rows) or not sum(best):
        return text
    return f"{text} ({mse * n / sum(best):.2f})"


def normality_lines(rows: Sequence[Normality]) -> list[str]:
    """Return in words what the test rejects, beside its rejections of normal rows."""
    return [
        f"normality, {'synthetic control' if row.source == 'normal' else row.source}: "
        f"{row.rejected:.1%} of {row.rows:,} rows rejected at 5%, {row.rejected_fdr:.1%} at a "
        "false discovery rate of 5%, excess kurtosis "
        + ("unknown" if row.kurtosis is None else f"{row.kurtosis:.2f}")
        for row in rows
        if row.role == "all"
    ]
