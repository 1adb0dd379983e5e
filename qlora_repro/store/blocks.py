"""Scores of consecutive tokens by block: all that statistics over blocks need of them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from qlora_repro.records import PERPLEXITY
from qlora_repro.store.runs import read_lines

Row = dict[str, Any]
TOKENS = "tokens"  # how many of them a row stands for


def in_blocks(rows: Iterable[Row], size: int) -> Iterator[Row]:
    """Yield a row for every `size` consecutive tokens of a text: their mean, and how many they are.

    Rows of other tasks stay as they are. The hash of a block is that of its tokens' hashes.
    """
    for (task, _), group in groupby(rows, key=lambda row: (row["task"], row["name"])):
        if task != PERPLEXITY:
            yield from group
            continue
        tokens = sorted(group, key=lambda row: int(row["doc_id"]))
        for start in range(0, len(tokens), size):
            yield _block(tokens[start : start + size])


def _block(rows: Sequence[Row]) -> Row:
    digest = hashlib.sha256("\n".join(row["doc_hash"] for row in rows).encode()).hexdigest()[:16]
    mean = sum(row["value"] for row in rows) / len(rows)
    return rows[0] | {"doc_hash": digest, "value": mean, TOKENS: len(rows)}


def read_answers(path: Path) -> list[Row]:
    """Read answers; a block of tokens comes back as so many tokens, each with the block's mean.

    So means, and sums and resamples of whole blocks, are those of the tokens themselves. Raises
    StoreError for a file that is not what was written.
    """
    return [token for row in read_lines(path) for token in _tokens(row)]


def _tokens(row: Row) -> Iterator[Row]:
    n = row.pop(TOKENS, None)
    if n is None:
        yield row
        return
    for place in range(n):
        yield row | {
            "doc_id": row["doc_id"] + place,
            "doc_hash": f"{row['doc_hash']}/{place}",
        }
