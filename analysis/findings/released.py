"""The paper's released verdicts on findings 3 to 6: scores of systems on the Vicuna questions."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.findings.judged import points
from analysis.findings.margins import Fixed
from analysis.findings.printed import SIZES, TABLE5, table
from qlora_repro.stats.estimates import About, Measured, Part, paired_superiority
from qlora_repro.stats.rank_correlation import agreement, spearman

Array = NDArray[np.float64]
CHATGPT, JUDGE = "chatgpt-3.5", "gpt-4"
BILLIONS = ("7b", "13b", "33b", "65b")
DATASETS = {  # as Table 5 names them, and as systems tuned on them are named
    "self_instruct": "self-instruct",
    "longform": "longform",
    "chip2": "chip2",
    "hh_rlhf": "hh-rlhf",
    "unnatural": "unnatural-instructions",
    "oasst1": "guanaco",
    "alpaca": "alpaca",
    "flan_v2": "flan",
}


def out_of_ten(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score of a system on a question over both orders, (questions, systems)."""
    scored = verdicts[(verdicts["protocol"] == "score10") & (verdicts["judge"] == JUDGE)]
    sides = [
        pd.DataFrame(
            {
                "question": scored["question"].astype("str"),
                "system": scored[side].astype("str"),
                "score": scored[f"score_{side}"].astype(np.float64),
            }
        )
        for side in ("first", "second")
    ]
    return pd.concat(sides).pivot_table("score", index="question", columns="system")


def small_good_over_large(verdicts: pd.DataFrame, fixed: Fixed) -> Measured:
    """Finding 4: OASST1, 9,209 rows, against FLAN v2, 450,000, in chat, mean over four sizes."""
    scores = out_of_ten(verdicts)
    apart = [scores[f"guanaco-{b}"] - scores[f"flan-{b}"] for b in BILLIONS]
    each = sum(apart[1:], start=apart[0]).dropna().to_numpy(np.float64) / len(BILLIONS)
    return _paired(each, "OASST1 (9 k rows) over FLAN v2 (450 k), chat scores of four sizes", fixed)


def guanaco_33b_over_vicuna_13b(verdicts: pd.DataFrame, fixed: Fixed) -> Measured:
    """Finding 3, beside: 33B at 4 bits (21 GB) and 13B at 16 (26 GB), tuned on other data."""
    scores = out_of_ten(verdicts)
    each = (scores["guanaco-33b"] - scores["vicuna-13b"]).dropna().to_numpy(np.float64)
    part = "Guanaco 33B at 4 bits over Vicuna 13B at 16, chat scores (Table 6)"
    return _paired(each, part, fixed, required=False, note="their training data differ too")


def chat_and_mmlu(verdicts: pd.DataFrame, fixed: Fixed) -> list[Part]:
    """Finding 6: MMLU of Table 5 and chat scores, over the eight datasets."""
    chat = out_of_ten(verdicts).mean()
    mmlu = table(TABLE5)
    grid = np.array([[chat[f"{DATASETS[d]}-{b}"] for b in BILLIONS] for d in DATASETS])
    printed = mmlu.loc[list(DATASETS), list(SIZES)].to_numpy(np.float64)
    each = [f"{b} {spearman(printed[:, k], grid[:, k]):.2f}" for k, b in enumerate(BILLIONS)]
    about = About(
        part="MMLU (Table 5) and GPT-4's Vicuna scores over datasets, means of four sizes",
        unit="rho",
        n=len(DATASETS),
        of="datasets",
        notes=(f"by size: {', '.join(each)}",),
    )
    rho = spearman(printed.mean(axis=1), grid.mean(axis=1))
    return [
        agreement(rho, about, bound=fixed.same_order, above=False),
        _vicuna_and_oa(verdicts, fixed),
    ]


def _vicuna_and_oa(verdicts: pd.DataFrame, fixed: Fixed) -> Part:
    judged = verdicts[(verdicts["protocol"] == "three_class") & (verdicts["judge"] == JUDGE)]
    ranked = [
        points(judged[judged["benchmark"] == name]).groupby("system")["points"].mean()
        for name in ("vicuna", "oa")
    ]
    both = pd.concat(ranked, axis=1, join="inner")
    about = About(
        part="GPT-4's order of systems on Vicuna and on OA questions",
        unit="rho",
        n=len(both),
        of="systems",
        required=False,
    )
    rho = spearman(*both.to_numpy(np.float64).T)
    return agreement(rho, about, bound=fixed.same_order, above=False)


def _paired(
    each: Array, part: str, fixed: Fixed, *, required: bool = True, note: str = ""
) -> Measured:
    about = About(
        part=part,
        unit="points of ten",
        n=len(each),
        of="questions",
        required=required,
        notes=(note,) if note else (),
    )
    return paired_superiority(
        each, about, resamples=fixed.resamples, fewest=fixed.fewest_flipped, seed=fixed.seed
    )
