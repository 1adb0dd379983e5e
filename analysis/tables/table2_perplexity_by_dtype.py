"""What is in print for Table 2: the paper's means by type, and a rerun by others, by model.

Table 2: perplexity after quantization, a row a model and data type, each paired by token.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.table import Table
from qlora_repro.config.paths import PAPER
from qlora_repro.config.schema import FULL_PRECISION
from qlora_repro.records import LOSS, Answer
from qlora_repro.stats.paired import block_interval, paired
from qlora_repro.store.load import records, settings, type_name
from qlora_repro.store.runs import read_answers

PRINTED = PAPER / "table2_perplexity_by_dtype.csv"
RERUN = PAPER / "table2_rerun.csv"  # by others: khalit7/technical_knowledge_base, GitHub
RERUN_BLOCK = 64
NO_ROW = "-"  # there is nothing to compare


def published(dtype: str, dq: bool) -> str:
    """Return the paper's mean perplexity of a type.

    >>> published("nf4", True), published("nf4", False)
    ('27.41', '-')
    """
    paper = _paper()
    same = paper[(paper["dtype"] == dtype) & (paper["dq"] == dq)]
    return f"{float(same['perplexity'].iloc[0]):.2f}" if len(same) else NO_ROW


@cache
def _paper() -> pd.DataFrame:
    return pd.read_csv(PRINTED)


@cache
def rerun() -> pd.DataFrame:
    """Return perplexities that others measured, (5 models, types) with (type, DQ) as columns."""
    values = pd.read_csv(RERUN).query("unit == 'perplexity'")
    return values.pivot(index="model", columns=["dtype", "dq"], values="value")


def elsewhere(dtype: str, dq: bool) -> str:
    """Return the mean rise over 16-bit in that rerun, and the least and greatest of its models.

    >>> elsewhere("nf4", False), elsewhere("bf16", False)
    ('+17.8 % (+4.1 to +36.5)', '-')
    """
    whole = ("bf16", False)
    if (dtype, dq) not in rerun() or (dtype, dq) == whole:
        return NO_ROW
    rises = 100 * (rerun()[dtype, dq] / rerun()[whole] - 1)
    return f"{rises.mean():+.1f} % ({rises.min():+.1f} to {rises.max():+.1f})"


COLUMNS = (
    *("model", "type", "block", "backend", "bits", "perplexity", "rise over 16-bit"),
    *("KL, nats a token", "same top token", "NF4 against it", "verdict on NF4"),
    *("MSE on N(0,1), 1e-3", "paper", "rise elsewhere"),
)
FAMILIES = ("opt_", "bloom_", "llama_", "pythia_")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One evaluation of one untuned model on the text."""

    root: Path
    facts: dict[str, Any]  # of qlora_repro.store.load.facts, and the digest
    asked: dict[str, Any]  # the eval section that decided it

    @property
    def dtype(self) -> str:
        """The data type's name."""
        return str(self.facts["dtype"])

    @property
    def dq(self) -> bool:
        """Whether the constants were quantized too."""
        return bool(self.facts["dq"])

    @property
    def block(self) -> int:
        """Consecutive tokens that are resampled together: a window."""
        return int(self.asked.get("perplexity_window", 512))

    @property
    def group(self) -> tuple[str, str]:
        """What may be compared: one model on one text, read in one way."""
        how = {k: v for k, v in self.asked.items() if k.startswith("perplexity_")}
        return str(self.facts["model"]), json.dumps(how, sort_keys=True)

    def answers(self, name: str) -> tuple[Answer, ...]:
        """Return a score of every token, in the order of the text."""
        path = self.root / str(self.facts["folder"]) / f"answers-{self.facts['digest']}.jsonl"
        return tuple(answer for answer in _answers(path) if answer.name == name)


def build(root: Path) -> Table:
    """Return the table; a row a model, type and way of storing it, in the order of perplexity."""
    found = list(readings(root))
    gaussian = _gaussian(root)
    rows = []
    for group in dict.fromkeys(reading.group for reading in found):
        peers = [reading for reading in found if reading.group == group]
        lines = [_line(reading, peers, gaussian) for reading in peers]
        rows += sorted(lines, key=lambda line: float(line["perplexity"]))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Table(
        title="Table 2: perplexity by data type",
        frame=frame,
        notes=_notes(found),
        runs=tuple(sorted({str(reading.facts["folder"]) for reading in found})),
    )


def readings(root: Path) -> Iterator[Reading]:
    """Yield every evaluation of an untuned model that has a perplexity."""
    metrics = records(root, "metrics")
    if metrics.empty:
        return
    untuned = metrics[(metrics["name"] == LOSS) & metrics["lora"].isna()]
    for row in untuned.to_dict("records"):
        asked = settings(root, row["folder"], row["digest"]).get("eval", {})
        yield Reading(root=root, facts={str(k): v for k, v in row.items()}, asked=asked)


@cache
def _answers(path: Path) -> tuple[Answer, ...]:
    rows = [Answer(**row) for row in read_answers(path)]
    return tuple(sorted(rows, key=lambda answer: answer.doc_id))


def _line(reading: Reading, peers: list[Reading], gaussian: pd.DataFrame) -> dict[str, Any]:
    facts = reading.facts
    quantized = reading.dtype not in FULL_PRECISION
    versus, verdict = _nf4_against(reading, peers)
    block = facts["blocksize"]
    return {
        "model": named(str(facts["model"])),
        "type": type_name(reading.dtype, reading.dq),
        "block": int(block) if quantized and not pd.isna(block) else NO_ROW,
        "backend": facts["backend"] if quantized else NO_ROW,
        "bits": f"{facts['bits']:.3f}" if quantized else "16",
        "perplexity": f"{math.exp(facts['value']):.2f}",
        "rise over 16-bit": _rise(reading, peers),
        "KL, nats a token": _interval(reading, "kl", digits=4),
        "same top token": _interval(reading, "same_top", digits=3),
        "NF4 against it": versus,
        "verdict on NF4": verdict,
        "MSE on N(0,1), 1e-3": _mse(reading, gaussian),
        "paper": published(reading.dtype, reading.dq),
        "rise elsewhere": elsewhere(reading.dtype, reading.dq) if block == RERUN_BLOCK else NO_ROW,
    }


def named(model: str) -> str:
    """Return a model's name, and that it stands in where it is of none of the paper's families.

    >>> named("opt_1b3"), named("smollm2_135m")
    ('opt_1b3', 'stand-in smollm2_135m')
    """
    return model if model.startswith(FAMILIES) else f"stand-in {model}"


def percent(difference: float) -> str:
    """Return a difference in nats a token as the change of perplexity that it is.

    >>> percent(math.log(1.2)), percent(math.log(0.95))
    ('+20.0', '-5.0')
    """
    return f"{100 * math.expm1(difference):+.1f}"


def _compare(before: Reading, after: Reading) -> tuple[str, str]:
    found = paired(
        before.answers(LOSS), after.answers(LOSS), higher_is_better=False, block=before.block
    )
    if found.difference is None or found.low is None or found.high is None or found.unmatched:
        return "other tokens", NO_ROW
    change, low, high = (percent(value) for value in (found.difference, found.low, found.high))
    return f"{change} % [{low}, {high}]", found.verdict


def _rise(reading: Reading, peers: list[Reading]) -> str:
    whole = [peer for peer in peers if peer.dtype == "bf16"]
    if reading.dtype in FULL_PRECISION or not whole:
        return NO_ROW
    return _compare(whole[0], reading)[0]


def _nf4_against(reading: Reading, peers: list[Reading]) -> tuple[str, str]:
    """Return NF4's change of perplexity from this type's, with as much quantized where it can be.

    NF4 with double quantization is compared with NF4 without.
    """
    nf4 = [peer for peer in peers if peer.dtype == "nf4" and peer is not reading]
    if reading.dtype == "nf4":
        nf4 = [peer for peer in nf4 if reading.dq and not peer.dq]
    nf4.sort(
        key=lambda peer: (
            peer.facts["blocksize"] != reading.facts["blocksize"],
            peer.facts["backend"] != reading.facts["backend"],
            peer.dq != reading.dq,
        )
    )
    return _compare(reading, nf4[0]) if nf4 else (NO_ROW, NO_ROW)


def _interval(reading: Reading, name: str, *, digits: int) -> str:
    if reading.dtype in FULL_PRECISION:
        return NO_ROW
    values = np.array([answer.value for answer in reading.answers(name)], dtype=np.float64)
    if not len(values):
        return "not measured"
    low, high = block_interval(values, block=reading.block)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _gaussian(root: Path) -> pd.DataFrame:
    errors = records(root, "quant_errors")
    return errors if errors.empty else errors[errors["source"] == "normal"]


def _mse(reading: Reading, gaussian: pd.DataFrame) -> str:
    if reading.dtype in FULL_PRECISION:
        return NO_ROW
    if gaussian.empty:
        return "not measured"
    facts = reading.facts
    same = gaussian[
        (gaussian["dtype"] == reading.dtype)
        & (gaussian["dq"] == reading.dq)
        & (gaussian["blocksize"] == facts["blocksize"])
    ]
    return f"{1e3 * float(same['mse'].iloc[0]):.3f}" if len(same) else "not measured"


def _notes(found: list[Reading]) -> list[str]:
    notes = [
        f"{reading.facts['model']}: {reading.facts['note']}"
        for reading in found
        if reading.facts["note"]
    ]
    for reading in found:
        asked = reading.asked
        if asked:
            stride = asked.get("perplexity_stride") or asked["perplexity_window"]
            notes.append(
                f"{reading.facts['model']} on {str(asked['perplexity_file']).split()[0]}: "
                f"{reading.facts['n']:,} tokens scored in windows of "
                f"{asked['perplexity_window']} tokens, {stride} from one to the next"
            )
        if reading.facts["dirty"]:
            notes.append(f"{reading.facts['folder']}: the code had uncommitted changes")
    return [
        *dict.fromkeys(notes),
        "Intervals are at 95% and resample windows, since tokens of one text depend on each other; "
        "a verdict needs p < 0.05 (sign flips of windows) and an interval without zero.",
        "KL: divergence of a type's next-token distribution from the 16-bit model's.",
        "Paper: mean over OPT, BLOOM, LLaMA and Pythia of 125M to 13B on Pile Common Crawl; there "
        "is no 16-bit row. Levels do not compare, the order does.",
        "Rise elsewhere: others' mean over OPT, Pythia and BLOOM of 125M to 560M (and range) on "
        "40,960 tokens of WikiText-2, blocks of 64.",
    ]
