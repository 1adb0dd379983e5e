"""Which runs of a store enter which claim, and what is said where there are none."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scored_runs
import statsmodels.formula.api as smf
from scipy.stats import spearmanr
from statsmodels.stats.anova import anova_lm

from analysis.findings.conclusions import conclude, gather_from_runs
from analysis.findings.evidence import Criteria, Evidence, load_criteria
from qlora_repro.stats.hypothesis_tests import Comparison, MissingComparison

BF16 = {"dtype.name": "bf16", "dq": False}
EXACT, LOSS = "procedural_exact/exact_match", "perplexity/nats_per_token"
HARD = np.random.default_rng(0).random(60) < 0.5  # which questions only some arm answers


@pytest.fixture(scope="module")
def criteria() -> Criteria:
    return load_criteria()


def evidence(root: Path, criteria: Criteria, finding: int) -> Evidence:
    return gather_from_runs(root, criteria)[finding - 1]


def exact(share: float, seed: int, *, n: int = 60) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, int(1000 * share)])
    return {EXACT: (rng.random(n) < share).astype(float)}


def test_an_empty_store_says_of_each_finding_what_would_have_to_run(
    tmp_path: Path, criteria: Criteria
) -> None:
    for root in (tmp_path, None):
        found = gather_from_runs(root, criteria)
        assert [one.outcome for one in conclude(found, criteria)] == ["not run"] * 7
        assert all(
            isinstance(part, MissingComparison) and part.needs for e in found for part in e.parts
        )


def arms(root: Path, seeds: int, **change: object) -> None:
    for seed in range(seeds):
        for setting in ({}, BF16, BF16 | {"lora.target": "none", "train.lr": 2e-5}):
            scored_runs.add_run(root, {"seed": seed, **setting, **change}, exact(0.5, seed))


def test_arms_that_answer_alike_are_equal_though_each_has_its_learning_rate(
    tmp_path: Path, criteria: Criteria
) -> None:
    arms(tmp_path, 3)
    found = evidence(tmp_path, criteria, 1)
    assert not found.missing
    assert [(p.effect, p.about.n, p.about.seeds) for p in found.measured] == [(0, 60, 3)] * 2
    assert found.p_for == 0
    assert found.notes == ("smollm2_135m: a stand-in",)


def test_fewer_seeds_than_asked_are_not_judged(tmp_path: Path, criteria: Criteria) -> None:
    arms(tmp_path, 2)
    found = evidence(tmp_path, criteria, 1)
    assert not found.measured
    assert "2 are there" in found.missing[0].needs


def test_runs_of_other_data_or_steps_are_not_compared(tmp_path: Path, criteria: Criteria) -> None:
    arms(tmp_path, 3)
    for seed in range(3):
        for other in ({"train.max_steps": 10}, {"data.rows": 9}):
            scored_runs.add_run(tmp_path, {"seed": seed, **other}, exact(0.9, seed))
    assert [p.effect for p in evidence(tmp_path, criteria, 1).measured] == [0, 0]


def test_settings_of_one_arm_are_never_chosen_by_their_scores(
    tmp_path: Path, criteria: Criteria
) -> None:
    arms(tmp_path, 3)
    for seed in range(3):  # as many seeds with another learning rate, and better
        scored_runs.add_run(tmp_path, {"seed": seed, "train.lr": 1e-3}, exact(0.99, seed))
    assert not evidence(tmp_path, criteria, 1).measured


def test_an_answer_without_a_score_leaves_its_question_out(
    tmp_path: Path, criteria: Criteria
) -> None:
    arms(tmp_path, 3)
    path = tmp_path / "run-0" / f"answers-{scored_runs.DIGEST}.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {"value": None}), *rest, ""]))
    assert {p.about.n for p in evidence(tmp_path, criteria, 1).measured} == {59}


def test_untuned_types_are_paired_by_window_in_the_same_blocks(
    tmp_path: Path, criteria: Criteria
) -> None:
    losses = np.random.default_rng(0).normal(3, 0.5, 160)
    for dtype, dq, block, worse in [
        ("nf4", True, 64, 0.001), ("nf4", False, 64, 0.0), ("nf4", True, 128, 0.5),
        ("fp4", True, 64, 0.1), ("int4", True, 64, 0.2),
    ]:  # fmt: skip
        setting = {"dtype.name": dtype, "dq": dq, "dtype.blocksize": block}
        scored_runs.add_run(tmp_path, setting, {LOSS: losses + worse}, tuned=False)
    for dtype, worse in (("nf4", 0.0), ("fp4", 0.3)):  # scored before tuning, on another text
        setting, other = {"dtype.name": dtype, "dq": True}, {"perplexity_tokens": 800}
        longer = {LOSS: np.tile(losses, 5) + worse}
        scored_runs.add_run(tmp_path, setting, longer, tuned=False, asked=other)
    found = evidence(tmp_path, criteria, 2)
    assert [p.part for p in found.missing] == []
    assert [p.effect for p in found.measured] == pytest.approx([0.099, 0.199, -0.001])
    assert {p.about.n for p in found.measured} == {40}  # windows of 4 tokens
    assert found.p_for < 0.01


def test_of_one_family_the_larger_at_4_bits_meets_the_smaller_at_16(
    tmp_path: Path, criteria: Criteria
) -> None:
    for model, params in (("opt_125m", 100), ("opt_350m", 300), ("bloom_560m", 300)):
        for dtype in ("bf16", "nf4"):
            setting = {"model.name": model, "dtype.name": dtype, "dq": dtype == "nf4"}
            scores = {EXACT: np.where(HARD, 1.0, float(params == 300))}
            scored_runs.add_run(tmp_path, setting, scores, tuned=False, params=params)
    (found,) = evidence(tmp_path, criteria, 3).measured
    assert "opt_350m in NF4 over opt_125m in 16 bits" in found.about.part
    assert found.effect == pytest.approx(100 * (1 - HARD.mean()))


def test_kinds_of_data_are_set_against_sizes(tmp_path: Path, criteria: Criteria) -> None:
    for seed in range(3):
        for tasks, share in ((["a"], 0.1), (["b"], 0.8)):
            for rows in (500, 2000):
                setting = {"data.tasks": tasks, "data.rows": rows, "seed": seed}
                scored_runs.add_run(tmp_path, setting, exact(share + rows / 1e5, seed, n=400))
    (found,) = evidence(tmp_path, criteria, 4).measured
    assert found.about.n == 12
    assert found.p_for < 0.01
    assert "kinds of data 100%, sizes 0%" in found.about.notes[0]


def test_kinds_of_data_fall_to_quality_and_suitability_as_in_an_analysis_of_variance(
    tmp_path: Path, criteria: Criteria
) -> None:
    rng = np.random.default_rng(3)
    runs = []
    for tasks, wrong, rows, seed in product(
        (["a"], ["b"]), (0.0, 0.3), (500, 2000, 8000), range(3)
    ):
        hits = (rng.random(300) < 0.3 + 0.2 * (tasks == ["b"]) - 0.3 * wrong).astype(float)
        setting = {"data.tasks": tasks, "data.wrong": wrong, "data.rows": rows, "seed": seed}
        scored_runs.add_run(tmp_path, setting, {EXACT: hits})
        runs.append({"score": hits.mean(), "tasks": tasks[0], "wrong": wrong, "rows": rows})
    (found,) = evidence(tmp_path, criteria, 4).measured
    model = smf.ols("score ~ C(tasks) * C(wrong) * C(rows)", data=pd.DataFrame(runs)).fit()
    squares = anova_lm(model)["sum_sq"] / anova_lm(model)["sum_sq"].sum()
    sizes = squares["C(rows)"]
    parts = [squares["C(tasks)"], squares["C(wrong)"], squares["C(tasks):C(wrong)"]]
    seeds = squares["Residual"]
    suitability, quality, both = parts
    assert found.about.notes[0] == (
        f"of the variance of runs: kinds of data {sum(parts):.0%}, sizes {sizes:.0%}, "
        f"both together {1 - sum(parts) - sizes - seeds:.0%}, seeds {seeds:.0%}; of kinds, "
        f"quality {quality:.0%}, suitability {suitability:.0%}, both together {both:.0%}"
    )


def grid(root: Path, *, widest: int) -> None:
    """Placements and ranks; scores follow the placement alone."""
    sizes = {"all": 10, "attention": 4}
    for seed in range(3):
        for target, share in (("all", 0.8), ("attention", 0.2)):
            for r in (4, widest):
                setting = {"lora.target": target, "lora.r": r, "seed": seed}
                scores = exact(share + r / 1e4, seed, n=400)
                scored_runs.add_run(root, setting, scores, trainable=sizes[target] * r)


def test_all_layers_meet_a_narrower_placement_with_no_fewer_parameters(
    tmp_path: Path, criteria: Criteria
) -> None:
    grid(tmp_path, widest=16)
    found = evidence(tmp_path, criteria, 7)
    control = found.measured[1]
    assert control.about.notes == ("r = 4 against r = 16, 1.60 times the parameters",)
    assert found.p_for < 0.05
    (beside,) = [p for p in found.parts if isinstance(p, Comparison) and not p.about.required]
    assert "r = 16 against r = 4" in beside.about.part


def test_without_a_matched_control_finding_7_is_not_resolved(
    tmp_path: Path, criteria: Criteria
) -> None:
    grid(tmp_path, widest=8)  # 32 parameters of attention, and 40 of all layers at the least
    found = evidence(tmp_path, criteria, 7)
    assert "a larger rank of attention" in found.missing[0].needs
    assert found.p_for == 1


def test_a_judge_is_set_against_people_on_the_stores_own_runs(
    tmp_path: Path, criteria: Criteria
) -> None:
    folder = tmp_path / scored_runs.add_run(tmp_path, {}, {})
    rng, rows = np.random.default_rng(0), []
    for question in range(30):
        for judge in ("gpt-4", "human-1"):
            for a in range(6):
                for b in range(6):
                    if a != b:
                        better = a + rng.normal() > b + rng.normal()
                        rows.append(verdict(judge, question, a, b, better))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"judgments-{scored_runs.DIGEST}.jsonl").write_text(lines)
    found = evidence(tmp_path, criteria, 5)
    systems, single, order = found.measured
    assert systems.effect == pytest.approx(1)
    assert single.p_for < 0.01
    assert order.p_for > 0.01  # no order effect was put in
    assert "a system named gpt-4" in found.missing[0].needs


def verdict(judge: str, question: int, first: int, second: int, won: bool) -> dict[str, object]:
    return {
        "judge": judge, "benchmark": "b", "protocol": "three_class", "question": str(question),
        "first": f"s{first}", "second": f"s{second}", "verdict": "first" if won else "second",
        "run_first": f"s{first}", "run_second": f"s{second}",
    }  # fmt: skip


def test_accuracy_and_chat_points_are_correlated_over_data_sets(
    tmp_path: Path, criteria: Criteria
) -> None:
    names, rows = ["a", "b", "c", "d", "e", "f"], []
    for place, name in enumerate(names):
        scores = {"mmlu/acc": [float(k < place) for k in range(6)]}
        run = scored_runs.add_run(tmp_path, {"data.name": name}, scores)
        row = verdict("gpt-4", 0, 0, 1, won=place % 2 == 0)
        rows.append(row | {"run_first": run, "run_second": ""})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "run-0" / f"judgments-{scored_runs.DIGEST}.jsonl").write_text(lines)
    (found,) = evidence(tmp_path, criteria, 6).measured
    x, y = np.arange(6), np.array([1, 0, 1, 0, 1, 0])
    assert found.effect == pytest.approx(spearmanr(x, y).statistic)
    assert found.about.n == 6
