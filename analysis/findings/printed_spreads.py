"""The paper's printed numbers on findings 4 and 7: which factor moves a score more."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.findings.margins import Fixed
from analysis.findings.printed import table
from qlora_repro.stats.estimates import About, Estimate, Missing, Part, equivalence
from qlora_repro.stats.variance import Levels, additive, more_spread

Array = NDArray[np.float64]
DATASETS = ("chip2", "unnatural", "flan_v2")
POINTS = ("50000", "100000", "150000")
EPOCHS = ("1 epoch", "2 epochs", "3 epochs")
PLACEMENTS = ("all", "ffn", "attention")


def kind_over_size() -> list[Part]:
    """Finding 4: datasets, sizes and epochs of Table 11, 27 single runs."""
    data, size, epochs = additive(table11())
    about = {
        name: About(
            part=f"spread between datasets over that between {name} (Table 11)",
            unit="points, sd",
            n=27,
            of="runs",
            required=name == "sizes",
            notes=("it is the dataset that differs: fit to MMLU, not only quality",),
        )
        for name in ("sizes", "epochs")
    }
    return [more_spread(data, size, about["sizes"]), more_spread(data, epochs, about["epochs"])]


def table11() -> Array:
    """Return MMLU by dataset, size and epochs: (3, 3, 3)."""
    frame = table("table11_dataset_size")
    return np.array(
        [
            [[frame.loc[size, f"{data} {epoch}"] for epoch in EPOCHS] for size in POINTS]
            for data in DATASETS
        ],
        dtype=np.float64,
    )


def placement_over_rank(fixed: Fixed) -> list[Part]:
    """Finding 7: placements of Figure 2, ranks of Figure 4."""
    fig2, fig4 = table("fig2_lora_coverage"), table("fig4_lora_rank")
    groups = [fig2.loc[f"qlora {name}"].dropna().to_numpy(np.float64) for name in PLACEMENTS]
    within = sum(float(group.var(ddof=1)) for group in groups) / len(groups)
    placements = Levels(
        means=np.array([group.mean() for group in groups]),
        variance=within / len(groups[0]),
        df=sum(len(group) - 1 for group in groups),
    )
    n, sd = (fig4[name].to_numpy(np.float64) for name in ("n", "sd"))
    variance = float((sd**2 / n).mean())
    ranks = Levels(means=fig4["mean"].to_numpy(np.float64), variance=variance, df=float(sum(n - 1)))
    ends = fig4.loc[["8", "64"]]
    squares = ends["sd"] ** 2 / ends["n"]
    change = float(ends["mean"].iloc[1] - ends["mean"].iloc[0])
    runs = int(sum(len(group) for group in groups) + n.sum())
    return [
        more_spread(
            placements,
            ranks,
            About(
                part="spread between placements (Figure 2) over that between ranks (Figure 4)",
                unit="RougeL points, sd",
                n=runs,
                of="runs",
                seeds=4,
            ),
        ),
        Missing(
            part="all layers over a narrower placement with no fewer parameters",
            needs="such a control: Figure 2 has one rank, Figure 4 one placement",
        ),
        _ranks_alike(change, math.sqrt(float(squares.sum())), ends, fixed),
    ]


def _ranks_alike(change: float, se: float, ends: pd.DataFrame, fixed: Fixed) -> Part:
    return equivalence(
        Estimate(effect=change, se=se, df=float(ends["n"].sum()) - 2),
        About(
            part="r = 64 against r = 8 (Figure 4)",
            unit="RougeL points",
            n=int(ends["n"].sum()),
            of="runs",
            seeds=3,
            required=False,
        ),
        margin=fixed.margins["alpaca"].value,
        test="Welch's t",
    )
