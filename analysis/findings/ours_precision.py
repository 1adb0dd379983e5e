"""Findings 1 to 3 from the store: which runs are compared, in pairs that differ in one thing."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from analysis.findings.margins import Fixed, Score
from analysis.findings.runs import Run, grouped, matrices, most_seeds, training
from qlora_repro.config.schema import FULL_PRECISION
from qlora_repro.records import LOSS, PERPLEXITY
from qlora_repro.stats.estimates import (
    About,
    Missing,
    Part,
    crossed,
    equivalence,
    paired_superiority,
    plain,
    pooled_noise,
    stacked,
    superiority,
)

Pick = Callable[[Run], bool]


def tuned_with(dtype: Sequence[str], dq: bool, target: str) -> Pick:
    """Return which runs are an arm of finding 1."""
    return lambda run: (
        run.at("dtype.name") in dtype
        and run.at("dq") is dq
        and run.at("lora.target") == target
        and not run.at("lora.layers")
    )


ARMS = {
    "NF4 + DQ": tuned_with(["nf4"], True, "all"),
    "16-bit LoRA": tuned_with(FULL_PRECISION, False, "all"),
    "full fine-tuning": tuned_with(FULL_PRECISION, False, "none"),
    "FP4 + DQ": tuned_with(["fp4"], True, "all"),
}
QLORA = "NF4 + DQ"


def matches_16_bit(runs: Sequence[Run], fixed: Fixed) -> list[Part]:
    """Finding 1: NF4 + DQ against 16-bit LoRA and full fine-tuning, same data, steps and seeds."""
    parts: list[Part] = []
    for arms, label in _tuned_groups(runs):
        for rival in ("16-bit LoRA", "full fine-tuning"):
            if rival in arms:
                parts += _tuned(arms, rival, label, fixed)
            else:
                parts.append(Missing(part=f"{QLORA} against {rival}, {label}", needs="its runs"))
    return parts or [_no_arms("16-bit LoRA and full fine-tuning", fixed)]


def _tuned_groups(runs: Sequence[Run]) -> list[tuple[dict[str, dict[int, Run]], str]]:
    found = []
    tuned = [run for run in runs if run.tuned]
    for group in grouped(tuned, lambda run: [run.at("model"), run.at("data"), training(run)]):
        arms = {name: most_seeds([r for r in group if pick(r)]) for name, pick in ARMS.items()}
        arms = {name: arm for name, arm in arms.items() if arm}
        if QLORA in arms and len(arms) > 1:
            found.append((arms, f"{group[0].model}, {group[0].at('data.name')}"))
    return found


def _no_arms(rivals: str, fixed: Fixed) -> Missing:
    return Missing(
        part=f"{QLORA} against {rivals}",
        needs=f"tuned runs of each on one model and data set, at least {fixed.fewest_seeds} seeds",
    )


def _tuned(arms: dict[str, dict[int, Run]], rival: str, label: str, fixed: Fixed) -> list[Part]:
    """Return a part a score that both arms have; noise is pooled over all arms of the group."""
    names = [QLORA, rival, *(name for name in arms if name not in (QLORA, rival))]
    parts: list[Part] = []
    for score in fixed.scores:
        grids = matrices([arms[name] for name in names], score.task, score.name)
        if not grids:
            continue
        part = f"{QLORA} against {rival}, {label}, {score.task}"
        seeds, questions = grids[0].shape
        if seeds < fixed.fewest_seeds or questions < 2:
            needs = f"{fixed.fewest_seeds} seeds in every arm; {seeds} are there"
            parts.append(Missing(part=part, needs=needs))
            continue
        scaled = [grid * score.scale for grid in grids]
        noise = pooled_noise(stacked(scaled))
        parts.append(
            equivalence(
                crossed(scaled[0] - scaled[1], noise),
                _about(part, score, scaled[0].shape, fixed),
                margin=fixed.margins[score.margin].value,
                test="t over seeds and questions",
                floor=noise.floor(seeds),
            )
        )
    if not parts:
        needs = "answers of the same questions in both arms"
        parts.append(Missing(part=f"{QLORA} against {rival}, {label}", needs=needs))
    return parts


def _about(part: str, score: Score, shape: tuple[int, ...], fixed: Fixed) -> About:
    of = "windows of text" if score.task == PERPLEXITY else "questions"
    unit = fixed.margins[score.margin].unit
    return About(part=part, unit=unit, n=shape[1], of=of, seeds=shape[0])


def nf4_is_best(runs: Sequence[Run], fixed: Fixed) -> list[Part]:
    """Finding 2: perplexity of untuned models, blocks and backend being the same.

    A model that was scored on several texts, or on more and less of one, counts once: where most of
    the pairs are there, and of those on the longest text.
    """
    best: dict[str, tuple[tuple[int, int], dict[str, Pair]]] = {}
    untuned = [run for run in runs if not run.tuned and len(run.scores(PERPLEXITY, LOSS))]
    for group in grouped(untuned, lambda run: run.at("model")):
        pairs = {what: _pair(group, rival) for what, rival in RIVALS.items()}
        there = sum(pair is not None for pair in pairs.values())
        weight = there, max(len(run.scores(PERPLEXITY, LOSS)) for run in group)
        if there and weight > best.get(group[0].model, ((0, 0), {}))[0]:
            best[group[0].model] = weight, pairs
    return [
        _untuned(what, pair, model, fixed)
        for model, (_, pairs) in best.items()
        for what, pair in pairs.items()
    ] or [
        Missing(
            part="NF4 over FP4 and Int4, and NF4 + DQ against NF4",
            needs="perplexities of an untuned model in these types, as "
            "experiments=table2_perplexity_by_dtype scale=small measures them",
        )
    ]


PLAIN_BLOCK = 64  # the paper's
RIVALS = {"NF4 over FP4": "fp4", "NF4 over Int4": "int4", "NF4 + DQ against NF4": "nf4"}
Pair = tuple[Run, Run] | None


def _pair(group: Sequence[Run], rival: str) -> Pair:
    """Return (NF4, rival) with the same blocks and backend; for NF4 itself with and without DQ."""

    def how(run: Run, dq: bool) -> tuple[object, ...]:
        return run.at("dtype.blocksize"), run.at("dtype.backend"), dq

    nf4 = {how(run, run.at("dq")): run for run in group if run.at("dtype.name") == "nf4"}
    other = {how(run, run.at("dq")): run for run in group if run.at("dtype.name") == rival}
    if rival == "nf4":
        other = {(*key[:2], True): run for key, run in nf4.items() if not key[2]}
    both = sorted(nf4.keys() & other.keys(), key=lambda key: (key[0] != PLAIN_BLOCK, str(key)))
    return (nf4[both[0]], other[both[0]]) if both else None


def _untuned(what: str, pair: tuple[Run, Run] | None, model: str, fixed: Fixed) -> Part:
    part = f"{what}, {model}, perplexity"
    if pair is None:
        return Missing(part=part, needs="both of them, in the same blocks, through one backend")
    grids = matrices([{0: run} for run in pair], PERPLEXITY, LOSS)
    if not grids or grids[0].shape[1] < 2:
        return Missing(part=part, needs="both on the same text, of two windows or more")
    gained = (grids[1] - grids[0])[0]  # (Q,): less loss is better
    about = About(part=part, unit="nats a token", n=len(gained), of="windows of text")
    if "against" in what:
        margin = fixed.margins["quantized_loss"].value
        return equivalence(plain(gained), about, margin=margin, test="paired t")
    return paired_superiority(
        gained, about, resamples=fixed.resamples, fewest=fixed.fewest_flipped, seed=fixed.seed
    )


def tuned_fp4(runs: Sequence[Run], fixed: Fixed) -> list[Part]:
    """Finding 2, beside: NF4 + DQ over FP4 + DQ after tuning."""
    parts: list[Part] = []
    for arms, label in _tuned_groups(runs):
        if "FP4 + DQ" not in arms:
            continue
        for score in fixed.scores:
            grids = matrices([arms[QLORA], arms["FP4 + DQ"]], score.task, score.name)
            if not grids or grids[0].shape[0] < fixed.fewest_seeds:
                continue
            found = crossed((grids[0] - grids[1]) * score.scale)
            about = _about(
                f"{QLORA} over FP4 + DQ, {label}, {score.task}", score, grids[0].shape, fixed
            )
            noise = pooled_noise(stacked([grid * score.scale for grid in grids]))
            beside = About(**{**about.__dict__, "required": False})
            floor = noise.floor(grids[0].shape[0])
            parts.append(superiority(found, beside, test="t over seeds and questions", floor=floor))
    return parts


def larger_at_4_bits(runs: Sequence[Run], fixed: Fixed) -> list[Part]:
    """Finding 3: untuned models of one family, the larger at 4 bits in no more memory."""
    parts: list[Part] = []
    untuned = [run for run in runs if not run.tuned]
    for group in grouped(untuned, lambda run: family(run.model)):
        whole = [run for run in group if run.at("dtype.name") in FULL_PRECISION]
        small = [run for run in group if run.at("dtype.name") == "nf4"]
        for large in small:
            rivals = [run for run in whole if run.model != large.model and run.bits >= large.bits]
            own = [run for run in whole if run.model == large.model]
            smaller = [run for run in rivals if own and run.bits < own[0].bits]
            if smaller:
                rival = max(smaller, key=lambda run: run.bits)
                parts += _by_accuracy(large, rival, fixed)
    return parts or [
        Missing(
            part="a larger model at 4 bits over a smaller one at 16",
            needs="accuracies of untuned models of one family in two sizes, each in NF4 and BF16",
        )
    ]


def family(model: str) -> str:
    """Return a model's name without its size.

    >>> family("opt_1b3"), family("smollm2_135m_base"), family("llama3_2_1b")
    ('opt', 'smollm2_base', 'llama3_2')
    """
    return re.sub(r"_\d+[bm]\d*", "", model)


def _by_accuracy(large: Run, small: Run, fixed: Fixed) -> list[Part]:
    parts: list[Part] = []
    for score in fixed.scores:
        grids = matrices([{0: large}, {0: small}], score.task, score.name)
        if score.task == PERPLEXITY or not grids or grids[0].shape[1] < 2:
            continue
        gained = ((grids[0] - grids[1]) * score.scale)[0]
        about = About(
            part=f"{large.model} in NF4 over {small.model} in 16 bits, {score.task}",
            unit=fixed.margins[score.margin].unit,
            n=len(gained),
            of="questions",
            notes=(f"{large.bits / 8e9:.2f} GB against {small.bits / 8e9:.2f} GB",),
        )
        parts.append(
            paired_superiority(
                np.asarray(gained),
                about,
                resamples=fixed.resamples,
                fewest=fixed.fewest_flipped,
                seed=fixed.seed,
            )
        )
    return parts
