"""Table 12: net wins pair by pair, GPT-4 judging the Vicuna benchmark."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.paper_tables import list_errata, load_cells
from analysis.ranking.tally import (
    Tally,
    count_net_wins,
    count_verdicts,
    pairwise_verdicts,
    resample_counts,
)
from analysis.table import Table, format_interval, format_signed
from qlora_repro.stats.intervals import TAILS, Array, draw_prompt_weights

STEM = "table12_pairwise"
CLOSE = 0.01 + 1e-9
REPLICATES = 10_000


def build_table(_results: Path) -> Table:
    """Return a row a pair, from the released verdicts alone, whatever the results folder."""
    printed, systems = load_cells(STEM), list_printed_systems()
    tally = count_verdicts(pairwise_verdicts("vicuna"), systems)
    questions = len(tally.questions)
    net = count_net_wins(tally.total, len(systems)) / questions
    low, high = np.quantile(resample_net_wins(tally), TAILS, axis=0)
    first, second = np.triu_indices(len(systems), 1)
    pairs = [(systems[i], systems[j]) for i, j in zip(first, second, strict=True)]
    judged, ours = tally.total.sum(axis=1), net[first, second]
    gaps = ours - [printed[pair] for pair in pairs]
    intervals = zip(low[first, second], high[first, second], strict=True)
    frame = pd.DataFrame(pairs, columns=["system", "against"]).assign(
        paper=[f"{printed[pair]:.2f}" for pair in pairs],
        ours=[f"{wins:.2f}" for wins in ours],
        difference=[format_signed(gap, 3) for gap in gaps],
        interval=[format_interval(interval, 2) for interval in intervals],
        **{"by the caption": [f"{share:.2f}" for share in ours * questions / judged]},
        n=judged.astype(str),
    )
    close = (abs(gaps) <= CLOSE).sum()
    return Table(
        title="Table 12: net wins by GPT-4's verdicts on the Vicuna benchmark",
        frame=frame,
        notes=[
            f"ours: wins less losses in both orders over the {questions} questions; {close} of "
            f"{len(gaps)} cells agree with the paper to 0.01",
            "by the caption: the same divided by the number of verdicts (n), as the caption says",
            f"n: verdicts in both orders; {tally.missing} replies could not be read; interval: "
            "95%, over draws of the questions",
            "GPT-4, the judge, is left out, as in the paper; the other half is the same with the "
            "opposite sign",
            *list_errata(STEM),
        ],
    )


def list_printed_systems() -> list[str]:
    """Return the printed systems, as the table lists them: all but GPT-4, the judge."""
    rows, columns = zip(*load_cells(STEM), strict=True)
    return list(dict.fromkeys([*rows, *columns]))


def resample_net_wins(tally: Tally) -> Array:
    """Return net wins a question of REPLICATES draws of the questions: (B, N, N)."""
    questions = len(tally.questions)
    weights = draw_prompt_weights(questions, resamples=REPLICATES, seed=0)
    return count_net_wins(resample_counts(tally.counts, weights), len(tally.systems)) / questions
