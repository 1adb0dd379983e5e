"""Table 2: perplexity after quantization, a row a model and data type, each paired by token."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.artifacts.runs import (
    add_run_facts,
    group_records,
    index_by_document,
    list_folders,
    list_run_notes,
)
from analysis.paper_tables import load_column, load_grid
from analysis.table import Table, format_interval
from qlora_repro.config.registry import FULL_PRECISION
from qlora_repro.records import LOSS
from qlora_repro.stats.intervals import ratio_interval
from qlora_repro.stats.paired import classify_difference, sign_flip_p
from qlora_repro.store.load import (
    load_answers,
    load_measurements,
    load_metrics,
    load_settings,
    type_name,
)

STEM = "table2_perplexity_by_dtype"
RERUN = "table2_rerun"  # by others: khalit7/technical_knowledge_base, GitHub
RERUN_BLOCK = 64
Evaluation = Mapping[Any, Any]  # a row of `load_text_evaluations`
NO_VALUE = "-"  # there is nothing to compare
NOT_MEASURED = "not measured"
FAMILIES = ("opt_", "bloom_", "llama_", "pythia_")
NOTES = (
    "Intervals are at 95% and resample windows, since tokens of one text depend on each other; "
    "a verdict needs p < 0.05 (sign flips of windows) and an interval without zero.",
    "KL: divergence of a type's next-token distribution from the 16-bit model's.",
    "Paper: mean over OPT, BLOOM, LLaMA and Pythia of 125M to 13B on Pile Common Crawl; there "
    "is no 16-bit row. Levels do not compare, the order does.",
    "Rise elsewhere: others' mean over OPT, Pythia and BLOOM of 125M to 560M (and range) on "
    "40,960 tokens of WikiText-2, blocks of 64.",
)


def printed_perplexity(dtype: str, dq: bool) -> str:
    """Return the paper's mean perplexity of a type.

    >>> printed_perplexity("nf4", True), printed_perplexity("nf4", False)
    ('27.41', '-')
    """
    value = load_column(STEM, "mean").get(type_name(dtype, dq))
    return NO_VALUE if value is None else f"{value:.2f}"


def rise_in_rerun(dtype: str, dq: bool) -> str:
    """Return the mean rise over 16-bit in the rerun, and the least and greatest of its models.

    >>> rise_in_rerun("nf4", False), rise_in_rerun("bf16", False)
    ('+17.8 % (+4.1 to +36.5)', '-')
    """
    perplexities = load_grid(RERUN).drop("mean rise")  # (5 models, types)
    name = type_name(dtype, dq)
    if name not in perplexities or name == "bf16":
        return NO_VALUE
    rises = 100 * (perplexities[name] / perplexities["bf16"] - 1)
    return f"{rises.mean():+.1f} % ({rises.min():+.1f} to {rises.max():+.1f})"


def build_table(results: Path) -> Table:
    """Return a row a model, type and way of storing it, in the order of perplexity."""
    evaluations = load_text_evaluations(results)
    gaussian = load_measurements("quant_errors", results)
    if not gaussian.empty:
        gaussian = gaussian[gaussian["source"] == "normal"]
    rows = [
        _row(evaluation, group.to_dict("records"), gaussian)
        for _, group in group_records(evaluations, ["model", "reading"])
        for evaluation in group.sort_values("value").to_dict("records")
    ]
    return Table(
        title="Table 2: perplexity by data type",
        frame=pd.DataFrame(rows),
        notes=[*_list_notes(evaluations), *NOTES],
        runs=list_folders(evaluations),
    )


def load_text_evaluations(results: Path) -> pd.DataFrame:
    """Return a row an evaluation of an untuned model that has a perplexity.

    Beside its metric and its run's facts it has `eval_settings`, `windows`, which are scores of
    windows of tokens (`qlora_repro.store.load.load_answers`), and `reading`, how the text was read:
    evaluations compare that agree in it.
    """
    metrics = add_run_facts(load_metrics(results), results)
    if metrics.empty:
        return metrics
    untuned = metrics[(metrics["name"] == LOSS) & metrics["lora"].isna()]
    answers, settings = load_answers(results), load_settings(results)
    windows = dict(iter(answers.groupby(["run_id", "digest"]))) if len(answers) else {}
    keys = list(zip(untuned["run_id"], untuned["digest"], strict=True))
    asked = [settings.get(key, {}).get("eval", {}) for key in keys]
    readings = [{k: v for k, v in of.items() if k.startswith("perplexity_")} for of in asked]
    return untuned.assign(
        eval_settings=asked,
        windows=pd.Series([windows.get(key, answers.head(0)) for key in keys], untuned.index),
        reading=[json.dumps(reading, sort_keys=True) for reading in readings],
    )


def score_windows(evaluation: Evaluation, metric: str) -> pd.DataFrame:
    """Return a metric's sum over each window, and its tokens, in the order of the text."""
    windows = evaluation["windows"]
    rows = index_by_document(windows[windows["name"] == metric])
    return rows[["tokens"]].assign(sum=rows["value"].astype(float) * rows["tokens"])


def _row(
    evaluation: Evaluation, group: Sequence[Evaluation], gaussian: pd.DataFrame
) -> dict[str, Any]:
    dtype, dq, blocksize = evaluation["dtype"], evaluation["dq"], evaluation["blocksize"]
    row: dict[str, Any] = {
        "model": label_model(evaluation["model"]),
        "type": type_name(dtype, dq),
        "block": NO_VALUE,
        "backend": NO_VALUE,
        "bits": "16",
        "perplexity": f"{math.exp(evaluation['value']):.2f}",
        "rise over 16-bit": NO_VALUE,
        "KL, nats a token": NO_VALUE,
        "same top token": NO_VALUE,
        "NF4 against it": NO_VALUE,
        "verdict on NF4": NO_VALUE,
        "MSE on N(0,1), 1e-3": NO_VALUE,
        "paper": printed_perplexity(dtype, dq),
        "rise elsewhere": rise_in_rerun(dtype, dq) if blocksize == RERUN_BLOCK else NO_VALUE,
    }
    if nf4 := _matching_nf4(evaluation, group):
        row["NF4 against it"], row["verdict on NF4"] = _compare_perplexities(evaluation, nf4)
    if dtype in FULL_PRECISION:
        return row
    if sixteen_bit := [other for other in group if other["dtype"] == "bf16"]:
        row["rise over 16-bit"], _ = _compare_perplexities(sixteen_bit[0], evaluation)
    return row | {
        "block": NO_VALUE if pd.isna(blocksize) else int(blocksize),
        "backend": evaluation["backend"],
        "bits": f"{evaluation['bits']:.3f}",
        "KL, nats a token": _mean_with_interval(evaluation, "kl", digits=4),
        "same top token": _mean_with_interval(evaluation, "same_top", digits=3),
        "MSE on N(0,1), 1e-3": _gaussian_mse(evaluation, gaussian),
    }


def label_model(model: str) -> str:
    """Return a model's name, and that it stands in where it is of none of the paper's families.

    >>> label_model("opt_1b3"), label_model("smollm2_135m")
    ('opt_1b3', 'stand-in smollm2_135m')
    """
    return model if model.startswith(FAMILIES) else f"stand-in {model}"


def percent_change(difference: float) -> float:
    """Return a difference in nats a token as the change of perplexity that it is, in percent.

    >>> round(percent_change(math.log(1.2)), 9)
    20.0
    """
    return 100 * math.expm1(difference)


def _compare_perplexities(before: Evaluation, after: Evaluation) -> tuple[str, str]:
    """Return the change of perplexity with its interval, and the verdict, on the same windows."""
    first, second = score_windows(before, LOSS), score_windows(after, LOSS)
    if first.empty or set(first.index) != set(second.index):
        return "other tokens", NO_VALUE
    tokens = first["tokens"].to_numpy(np.float64)
    sums = (second.loc[first.index, "sum"] - first["sum"]).to_numpy(np.float64)
    low, high = ratio_interval(sums, tokens)
    verdict = classify_difference(sign_flip_p(sums), low=low, high=high, higher_is_better=False)
    change = percent_change(float(sums.sum() / tokens.sum()))
    interval = format_interval((percent_change(low), percent_change(high)), 1, signed=True)
    return f"{change:+.1f} % {interval}", verdict


def _matching_nf4(evaluation: Evaluation, group: Sequence[Evaluation]) -> Evaluation | None:
    """Return NF4 to compare a type with, with as much quantized where it can be.

    NF4 with double quantization is compared with NF4 without.
    """
    nf4 = [other for other in group if other["dtype"] == "nf4"]
    if evaluation["dtype"] == "nf4":
        nf4 = [other for other in nf4 if evaluation["dq"] and not other["dq"]]
    alike = ("blocksize", "backend", "dq")  # the first counts most
    return min(
        nf4, key=lambda other: [other[name] != evaluation[name] for name in alike], default=None
    )


def _mean_with_interval(evaluation: Evaluation, metric: str, *, digits: int) -> str:
    windows = score_windows(evaluation, metric)
    if windows.empty:
        return NOT_MEASURED
    sums, tokens = windows["sum"].to_numpy(np.float64), windows["tokens"].to_numpy(np.float64)
    interval = format_interval(ratio_interval(sums, tokens), digits)
    return f"{sums.sum() / tokens.sum():.{digits}f} {interval}"


def _gaussian_mse(evaluation: Evaluation, gaussian: pd.DataFrame) -> str:
    if gaussian.empty:
        return NOT_MEASURED
    keys = ["dtype", "dq", "blocksize"]
    same = gaussian[(gaussian[keys] == [evaluation[key] for key in keys]).all(axis=1)]
    return f"{1e3 * float(same['mse'].iloc[0]):.3f}" if len(same) else NOT_MEASURED


def _list_notes(evaluations: pd.DataFrame) -> list[str]:
    notes = list_run_notes(evaluations)
    for evaluation in evaluations.to_dict("records"):
        if settings := evaluation["eval_settings"]:
            window = settings["perplexity_window"]
            notes.append(
                f"{evaluation['model']} on {str(settings['perplexity_file']).split()[0]}: "
                f"{evaluation['n']:,} tokens scored in windows of {window} tokens, "
                f"{settings.get('perplexity_stride') or window} from one to the next"
            )
    return list(dict.fromkeys(notes))
