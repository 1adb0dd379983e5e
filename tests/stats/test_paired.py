import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint

from qlora_repro.records import Answer
from qlora_repro.stats import intervals, paired


def answers(values: list[float | None], *, task: str = "t", name: str = "acc") -> list[Answer]:
    return [
        Answer(run_id="r", task=task, name=name, doc_id=k, doc_hash=f"h{k}", value=value)
        for k, value in enumerate(values)
    ]


def test_mcnemar_equals_statsmodels() -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.integers(0, 2, 80).astype(float) for _ in range(2))
    table = [[int(((before == i) & (after == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    assert paired.mcnemar_p(before, after) == pytest.approx(
        statsmodels_mcnemar(table, exact=True).pvalue
    )


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (7, 20), (20, 20), (311, 1000)])
def test_wilson_equals_statsmodels(successes: int, n: int) -> None:
    assert intervals.wilson_interval(successes, n) == pytest.approx(
        proportion_confint(successes, n, method="wilson")
    )


def test_a_proportion_above_one_is_refused_and_none_at_all_is_unknown() -> None:
    with pytest.raises(ValueError, match="3 successes of 2"):
        intervals.wilson_interval(3, 2)
    assert intervals.wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [8, 40])
def test_sign_flips_equal_scipys_permutation_test(n: int) -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, n)
    expected = scipy_stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=5000 if n > 12 else np.inf,
        rng=np.random.default_rng(0),
    ).pvalue
    assert paired.sign_flip_p(differences) == pytest.approx(expected, abs=0.02 if n > 12 else 1e-12)


def test_the_interval_equals_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(1, 60)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert intervals.mean_interval(values) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_interval_covers_the_true_difference_about_95_times_in_100() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(200):
        before = (rng.random(100) < 0.4).astype(float)
        after = np.where(rng.random(100) < 0.2, 1.0, before)  # gains 0.2 of the wrong ones
        low, high = intervals.mean_interval(after - before, seed=trial)
        covered += low <= 0.12 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_two_equal_systems_are_told_apart_at_most_five_times_in_a_hundred() -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        before, after = (answers(list((rng.random(60) < 0.5).astype(float))) for _ in range(2))
        wrong += paired.compare_answers(before, after).verdict != "not resolved"
    assert wrong / 200 <= 0.07


def test_a_clear_gain_is_better_and_its_reverse_worse() -> None:
    low, high = answers([0.0] * 30 + [1.0] * 10), answers([1.0] * 20 + [0.0] * 10 + [1.0] * 10)
    gain, loss = paired.compare_answers(low, high), paired.compare_answers(high, low)
    assert gain.verdict == "better"
    assert loss.verdict == "worse"
    assert gain.test == "mcnemar"
    assert gain.p == pytest.approx(2 * 0.5**20)
    assert gain.difference == pytest.approx(0.5) == -(loss.difference or 0)
    assert (gain.before, gain.after) == (0.25, 0.75)


def test_graded_scores_take_the_sign_flip_test() -> None:
    rng = np.random.default_rng(4)
    before = rng.random(50)
    result = paired.compare_answers(answers(list(before)), answers(list(before + 0.1)))
    assert result.test == "sign flip"
    assert result.p == pytest.approx(1 / (paired.SIGN_FLIPS + 1))
    assert result.verdict == "better"


def test_questions_pair_by_hash_whatever_their_order_and_the_rest_is_counted() -> None:
    before = answers([1.0, 0.0, None, 0.0])
    after = [*reversed(answers([1.0, 1.0, 1.0])), *answers([1.0], task="other")]
    result = paired.compare_answers(before, after)
    assert (result.n, result.missing, result.unmatched) == (2, 1, 2)
    assert result.difference == pytest.approx(0.5)


def test_a_repeated_document_pairs_in_order() -> None:
    twice = [
        Answer(run_id="r", task="t", name="acc", doc_id=k, doc_hash="same", value=float(k))
        for k in (0, 1)
    ]
    result = paired.compare_answers(twice, list(reversed(twice)))
    assert (result.n, result.unmatched, result.difference) == (2, 0, 0.0)


def test_nothing_in_common_gives_no_number() -> None:
    result = paired.compare_answers(answers([1.0]), answers([1.0], task="other"))
    assert (result.n, result.unmatched, result.p, result.verdict) == (0, 2, None, "not resolved")
    assert result.difference is None


def test_equal_seeds_give_equal_intervals() -> None:
    before, after = answers([0.1, 0.5, 0.9, 0.2] * 5), answers([0.3, 0.4, 0.9, 0.8] * 5)
    assert paired.compare_answers(before, after, seed=7) == paired.compare_answers(
        before, after, seed=7
    )


def test_many_pairs_take_the_normal_limit_and_agree_with_scipys_t_test() -> None:
    values = np.random.default_rng(6).normal(0.01, 1, intervals.NORMAL_LIMIT)
    theirs = scipy_stats.ttest_1samp(values, 0.0)
    low, high = intervals.mean_interval(values)
    expected = theirs.confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)
    assert paired.sign_flip_p(values) == pytest.approx(theirs.pvalue, rel=1e-2)


def test_a_lower_loss_is_better_when_asked() -> None:
    before, after = (
        answers([1.0 + k / 100 for k in range(40)]),
        answers([k / 100 for k in range(40)]),
    )
    assert paired.compare_answers(before, after).verdict == "worse"
    assert paired.compare_answers(before, after, higher_is_better=False).verdict == "better"
