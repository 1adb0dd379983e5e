"""Materials that several test files look at: the released verdicts, and small made-up ones."""

from functools import cache

import pandas as pd

from analysis.judge_audit.counted_verdicts import Material, materials
from qlora_repro.store.verdicts import complete, released


@cache
def audited(benchmark: str, protocol: str, judge: str) -> Material:
    """Return one part of the released verdicts, with 200 resamples."""
    parts = materials(released(), benchmark=benchmark, resamples=200, seed=0)
    return next(part for part in parts if (part.protocol, part.judge) == (protocol, judge))


def made(rows: list[dict[str, object]], *, judge: str = "me") -> Material:
    """Return what one judge said of made-up verdicts, with 50 resamples."""
    frame = complete(pd.DataFrame(rows), "made up")
    parts = materials(frame, benchmark=None, resamples=50, seed=0)
    return next(part for part in parts if part.judge == judge)
