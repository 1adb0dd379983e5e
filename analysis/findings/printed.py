"""The paper's printed numbers on findings 1 to 3, as they stand in analysis/paper."""

from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.findings.margins import Fixed
from qlora_repro.config.paths import PAPER
from qlora_repro.stats.estimates import (
    About,
    Measured,
    Missing,
    Noise,
    Part,
    equivalence,
    paired_superiority,
    plain,
    two_groups,
)

Array = NDArray[np.float64]
SIZES = ("llama_7b", "llama_13b", "llama_33b", "llama_65b")
T5 = ("t5_80m", "t5_250m", "t5_780m", "t5_3b", "t5_11b")
CELLS = tuple(f"{size} {data}" for size in SIZES for data in ("alpaca", "flan_v2"))
CELLS_OF = "cells of Table 4"
TABLE3, TABLE4 = "table3_glue_superni_by_dtype", "table4_mmlu_by_dtype"
TABLE5 = "table5_mmlu_by_dataset"


@cache
def table(stem: str) -> pd.DataFrame:
    """Return a table of the paper, rows and columns as they are named in its csv."""
    frame = pd.read_csv(PAPER / f"{stem}.csv", dtype={"row": "str", "column": "str"})
    numbers = frame.assign(value=pd.to_numeric(frame["value"], errors="coerce"))
    return numbers.pivot(index="row", columns="column", values="value")


def row(stem: str, name: str, columns: tuple[str, ...]) -> Array:
    """Return the cells of one row."""
    return table(stem).loc[name, list(columns)].to_numpy(np.float64)


def matches_16_bit(fixed: Fixed) -> list[Part]:
    """Finding 1: NF4 + DQ against 16-bit LoRA and against full fine-tuning."""
    fig2, nf4 = "fig2_lora_coverage", row(TABLE3, "qlora nf4 + dq", T5)
    full = row(TABLE3, "bf16 replication", T5)
    full = np.where(np.isnan(full), row(TABLE3, "bf16 published", T5), full)
    all_layers = table(fig2).loc["qlora all"].dropna().to_numpy(np.float64)
    tuned = table(fig2).loc["16-bit full tuned"].dropna().to_numpy(np.float64)
    mmlu = row(TABLE4, "nf4 + dq", CELLS) - row(TABLE4, "bf16", CELLS)
    sizes = "sizes of T5"
    return [
        _same("NF4 + DQ against 16-bit LoRA, MMLU (Table 4)", mmlu, CELLS_OF, "mmlu", fixed),
        _same(
            "NF4 + DQ against 16-bit LoRA, Super-NaturalInstructions (Table 3)",
            nf4 - row(TABLE3, "lora bf16", T5),
            sizes,
            "rouge",
            fixed,
        ),
        _same(
            "NF4 + DQ against full fine-tuning, Super-NaturalInstructions (Table 3)",
            nf4 - full,
            sizes,
            "rouge",
            fixed,
        ),
        equivalence(
            two_groups(all_layers, tuned),
            About(
                part="4-bit QLoRA against tuned full fine-tuning, Alpaca (Figure 2)",
                unit="RougeL points",
                n=len(all_layers) + len(tuned),
                of="runs",
                notes=(f"{len(all_layers)} and {len(tuned)} seeds",),
            ),
            margin=fixed.margins["alpaca"].value,
            test="Welch's t",
        ),
    ]


def _same(part: str, differences: Array, of: str, margin: str, fixed: Fixed) -> Measured:
    about = About(part=part, unit=fixed.margins[margin].unit, n=len(differences), of=of)
    floor = NOISE[margin]().floor(len(differences))
    value = fixed.margins[margin].value
    return equivalence(plain(differences), about, margin=value, test="paired t", floor=floor)


def mmlu_noise() -> Noise:
    """Return how far cells that the paper prints twice, in Tables 4 and 5, lie apart."""
    again = [
        table(TABLE5).loc[data, size] for size in SIZES for data in ("alpaca", "flan_v2")
    ]  # in the order of CELLS
    apart = row(TABLE4, "nf4 + dq", CELLS) - np.array(again, dtype=np.float64)
    return Noise(variance=float((apart**2).mean()), df=len(apart))


def rouge_noise() -> Noise:
    """Return how far 16-bit full fine-tuning lies from its replication, in Table 3."""
    apart = row(TABLE3, "bf16 published", T5) - row(TABLE3, "bf16 replication", T5)
    again = apart[~np.isnan(apart)]
    return Noise(variance=float((again**2).mean()), df=len(again))


NOISE = {"mmlu": mmlu_noise, "rouge": rouge_noise}


def nf4_is_best(fixed: Fixed) -> list[Part]:
    """Finding 2: NF4 against FP4 and Int4, and what double quantization costs."""
    mmlu = row(TABLE4, "nf4 + dq", CELLS) - row(TABLE4, "fp4", CELLS)
    rouge = row(TABLE3, "qlora nf4 + dq", T5) - row(TABLE3, "qlora fp4", T5)
    return [
        paired_superiority(
            mmlu,
            About(part="NF4 + DQ over FP4, MMLU (Table 4)", unit="points", n=8, of=CELLS_OF),
            resamples=fixed.resamples,
            fewest=fixed.fewest_flipped,
            floor=mmlu_noise().floor(len(mmlu)),
        ),
        paired_superiority(
            rouge,
            About(
                part="NF4 + DQ over FP4, Super-NaturalInstructions (Table 3)",
                unit="RougeL points",
                n=len(rouge),
                of="sizes of T5",
            ),
            resamples=fixed.resamples,
            fewest=fixed.fewest_flipped,
            floor=rouge_noise().floor(len(rouge)),
        ),
        Missing(
            part="NF4 over Int4, perplexity (Table 2)",
            needs="perplexities of single models: Table 2 prints one mean a type, without a spread",
        ),
        Missing(
            part="NF4 + DQ against NF4",
            needs="a score of NF4 without double quantization: no table has one",
        ),
    ]


def larger_at_4_bits(fixed: Fixed) -> list[Part]:
    """Finding 3: each LLaMA at 4 bits against the next smaller one at 16, twice its memory."""
    small, large = CELLS[:-2], CELLS[2:]
    gained = row(TABLE4, "nf4 + dq", large) - row(TABLE4, "bf16", small)
    return [
        paired_superiority(
            gained,
            About(
                part="next larger LLaMA at 4 bits over the smaller at 16, MMLU (Table 4)",
                unit="points",
                n=len(gained),
                of=CELLS_OF,
                notes=("weights of the larger take about half as much; 8 bits were not run",),
            ),
            resamples=fixed.resamples,
            fewest=fixed.fewest_flipped,
            floor=mmlu_noise().floor(len(gained)),
        )
    ]
