"""Tables 1, 6, 7, 12 and 13 from the released verdicts, against the printed numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.ranking.tally import count_net_wins, count_verdicts, take_majority
from analysis.table import Table
from analysis.tables import (
    TABLES,
    table1_elo,
    table6_vicuna_vs_chatgpt,
    table7_elo,
    table12_pairwise,
    table13_order,
)
from analysis.tables.table6_vicuna_vs_chatgpt import score_against_chatgpt
from qlora_repro.store.verdicts import load_released_verdicts

pytestmark = pytest.mark.long

NOWHERE = Path("there is no such folder")


def numbers(table: Table, name: str) -> pd.Series:
    return table.frame[name].astype(float)


@pytest.fixture(scope="module")
def table1() -> Table:
    return table1_elo.build_table(NOWHERE)


@pytest.fixture(scope="module")
def table7() -> Table:
    return table7_elo.build_table(NOWHERE)


@pytest.fixture(scope="module")
def table6() -> Table:
    return table6_vicuna_vs_chatgpt.build_table(NOWHERE)


def test_table_1_is_within_1_elo_on_all_systems_with_k_4_and_not_with_the_stated_32(
    table1: Table,
) -> None:
    paper, ours = numbers(table1, "paper"), numbers(table1, "ours")
    assert len(ours) == 8
    assert (ours - paper).abs().max() <= 1
    assert (numbers(table1, "ours, K = 32") - paper).abs().max() > 20
    assert "within 1 Elo of the paper on 8 of 8 systems" in table1.notes[0]


def test_other_questions_move_ratings_thirty_times_further_than_the_printed_interval(
    table1: Table,
) -> None:
    bounds = table1.frame["interval"].str.strip("[]").str.split(", ", expand=True).astype(float)
    half = (bounds[1] - bounds[0]) / 2
    assert half.between(25, 40).all()
    assert any("is the error of a mean over orderings (here +-0.2" in note for note in table1.notes)


def test_table_7_follows_once_the_exchanged_cells_are_undone(table7: Table) -> None:
    off = table7.frame.assign(off=numbers(table7, "corrected").abs())
    worst = off.groupby("judge, benchmark")["off"].agg(["max", "size"])
    assert worst.loc["human, Vicuna"].tolist() == [pytest.approx(0.5, abs=0.5), 8]
    assert worst.loc["GPT-4, Vicuna"].tolist() == [pytest.approx(0.5, abs=0.5), 8]
    assert worst.loc["GPT-4, OA"].tolist() == [pytest.approx(1, abs=1), 7]
    assert sum("exchanged with" in note for note in table7.notes) == 2


def test_exactly_the_two_exchanged_cells_are_far_from_what_is_printed(table7: Table) -> None:
    far = table7.frame[numbers(table7, "difference").abs() > 2]
    found = set(zip(far["judge, benchmark"], far["system"], strict=True))
    assert found == {("human, Vicuna", "chatgpt-3.5"), ("GPT-4, Vicuna", "guanaco-13b")}


def test_table_6_agrees_to_a_tenth_but_for_rows_that_are_explained(table6: Table) -> None:
    rows = table6.frame[table6.frame["mean, paper"] != "-"].set_index("system")
    gap = {
        name: (rows[f"{name}, ours"].astype(float) - rows[f"{name}, paper"].astype(float)).abs()
        for name in ("C first", "S first", "mean")
    }
    close = {name: of <= 0.1 + 1e-9 for name, of in gap.items()}
    orders = close["C first"] & close["S first"]
    assert (len(rows), orders.sum(), close["mean"].sum()) == (21, 19, 18)
    assert set(rows.index[~orders]) == {"gpt-4", "open-assistant-33b"}
    means = {"open-assistant-33b", "alpaca-13b", "self-instruct-13b"}
    assert set(rows.index[~close["mean"]]) == means
    explained = [note for note in table6.notes if not note.startswith("erratum")]
    for row in {"gpt-4", *means}:
        assert any(note.startswith(f"{row}: ") for note in explained)


def test_table_6_shows_the_released_systems_that_the_paper_leaves_out(table6: Table) -> None:
    found = table6.frame.set_index("system")
    assert len(found) == 36
    assert found.loc["chip2-65b", ["mean, paper", "mean, ours"]].tolist() == ["-", "60.9"]


def test_relative_scores_are_ratios_of_sums_and_leave_out_replies_without_scores() -> None:
    rows = [("1", "chatgpt-3.5", "x", 8, 4), ("2", "chatgpt-3.5", "x", 2, 1)]
    rows += [("1", "x", "chatgpt-3.5", 5, 5), ("2", "x", "chatgpt-3.5", None, None)]
    columns = ["question", "first", "second", "score_first", "score_second"]
    frame = pd.DataFrame(rows, columns=columns).astype(
        {"score_first": float, "score_second": float}
    )
    lenient = {f"{name}_lenient": frame[name].fillna(3) for name in columns[3:]}
    found = score_against_chatgpt(frame.assign(**lenient), "x")
    assert (found["chatgpt_first"], found["system_first"]) == (50, 100)
    assert found["mean"] == pytest.approx(100 * 10 / 15)
    assert found["lenient"] == pytest.approx(100 * 13 / 18)
    assert (found["n"], found["missing"]) == (3, 1)


def test_table_12_agrees_in_all_cells_with_questions_as_divisor_and_not_with_verdicts() -> None:
    table = table12_pairwise.build_table(NOWHERE)
    paper = numbers(table, "paper")
    assert len(paper) == 21
    assert (numbers(table, "difference").abs() <= 0.01).all()
    large = paper > 0.05  # two decimals tell a number from its half
    assert ((paper - numbers(table, "by the caption")).abs()[large] > 0.04).all()


def test_table_13_has_the_printed_order() -> None:
    table = table13_order.build_table(NOWHERE)
    assert (table.frame["ours"] == table.frame["paper"]).all()
    assert any("every system beats all below it" in note for note in table.notes)


def test_places_go_by_systems_beaten_first() -> None:
    net = np.array([[0, 1, 1], [-1, 0, 9], [-1, -9, 0]])
    assert table13_order.rank_by_net_wins(net).tolist() == [1, 2, 3]
    cycle = np.array([[0, 5, -1], [-5, 0, 4], [1, -4, 0]])
    assert table13_order.count_beaten(cycle).tolist() == [1, 1, 1]
    assert table13_order.rank_by_net_wins(cycle).tolist() == [1, 2, 3]  # by net wins: 4, -1, -3


def test_a_majority_needs_more_votes_than_any_other() -> None:
    votes = [("1", "first first tie"), ("2", "first second tie"), ("3", "second second second")]
    votes += [("4", "tie tie first"), ("5", "- - second"), ("6", "- - -")]
    rows = [
        (question, "a", "b", None if vote == "-" else vote)
        for question, said in votes
        for vote in said.split()
    ]
    frame = pd.DataFrame(rows, columns=["question", "first", "second", "verdict"])
    found = take_majority(frame).set_index("question")["verdict"]
    assert found.fillna("-").tolist() == ["first", "tie", "second", "tie", "second", "-"]


def test_net_wins_are_antisymmetric_counts() -> None:
    verdicts = load_released_verdicts().query("benchmark == 'vicuna' and protocol == 'three_class'")
    gpt4 = verdicts[verdicts["judge"] == "gpt-4"]
    pair = gpt4[
        gpt4["first"].isin(["guanaco-65b", "bard"]) & gpt4["second"].isin(["guanaco-65b", "bard"])
    ]
    won = pair["first"].where(pair["verdict"] == "first", pair["second"])[pair["verdict"] != "tie"]
    of = count_verdicts(pair, ["guanaco-65b", "bard"])
    net = count_net_wins(of.total, 2)
    assert net[0, 1] == -net[1, 0] == (won == "guanaco-65b").sum() - (won == "bard").sum() == 58


def test_tables_of_released_verdicts_are_registered_by_their_artifact() -> None:
    for name in ("table1_elo", "table6_vicuna_vs_chatgpt", "table7_elo"):
        assert name in TABLES
    assert {"table12_pairwise", "table13_order"} <= set(TABLES)
