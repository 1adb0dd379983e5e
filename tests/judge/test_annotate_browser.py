"""The annotation page in a real browser: keys, what is kept, what is exported, what cannot run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Tab, chromium

from qlora_repro.judge.annotate import COLUMNS, build_page
from qlora_repro.judge.matches import hash_answer
from qlora_repro.records import Match
from qlora_repro.store.verdicts import read_verdicts

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH; apt-get install chromium"
)
ATTACK = (
    "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    '<!-- {{data}} & "quoted", \u2028 $& \n<b>bold</b>'
)


def match(number: int) -> Match:
    return Match(
        question_id=f"q{number}",
        question=f"Question, number {number}?" + ATTACK,
        category="",
        lang="en",
        first="left, or not",
        second="right",
        answer_first=f"L{number} {ATTACK}",
        answer_second=f"R{number} {ATTACK}",
        reference="",
    )


MATCHES = [match(number) for number in range(4)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "annotate.html"
    path.write_text(build_page(MATCHES, benchmark="mine", seed=3), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(file: Path) -> Iterator[Tab]:
    with chromium(file.parent) as tab:
        tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(file.parent))
        yield tab


@pytest.fixture
def tab(browser: Tab, file: Path) -> Tab:
    browser.open(file)
    browser.value("localStorage.clear()")
    browser.open(file)
    return browser


def text(tab: Tab, name: str) -> str:
    return str(tab.value(f"document.getElementById('{name}').textContent"))


def test_text_of_a_model_is_shown_letter_for_letter_and_never_runs(tab: Tab) -> None:
    for _ in MATCHES:
        shown = text(tab, "question").removesuffix(ATTACK)
        number = shown.removeprefix("Question, number ").removesuffix("?")
        sides = {text(tab, "first"), text(tab, "second")}
        assert sides == {f"L{number} {ATTACK}", f"R{number} {ATTACK}"}
        tab.press("n")
    assert tab.value("window.ran === undefined")
    assert tab.value("document.images.length + document.querySelectorAll('main b').length") == 0


def test_the_policy_stops_a_script_that_gets_into_the_page(tab: Tab) -> None:
    tab.value("var s = document.createElement('script'); s.textContent = 'window.ran = 3'")
    tab.value("document.body.append(s); document.body.setAttribute('onclick', 'window.ran = 4')")
    tab.value("document.body.click()")
    assert tab.value("window.ran === undefined")


def test_the_page_fetches_nothing_and_names_no_system(tab: Tab, file: Path) -> None:
    assert set(tab.requests) <= {file.as_uri()}
    seen = tab.value("document.body.innerText")
    assert "left, or not" not in seen
    assert "right" not in seen


def test_keys_vote_and_the_csv_says_what_was_shown_where(tab: Tab, file: Path) -> None:
    pressed = {"1": "first", "ArrowRight": "second", "0": "tie", "ArrowLeft": "first"}
    expected = {}
    for key, verdict in pressed.items():
        first = text(tab, "first").removesuffix(ATTACK).strip()
        expected[f"q{first[1:]}"] = (first, verdict)
        tab.press(key)
    assert "4 of 4, 4 compared" in text(tab, "count")
    csv = file.parent / "votes-human-1.csv"
    csv.unlink(missing_ok=True)
    tab.press("e")
    tab.wait("document.getElementById('said').textContent.startsWith('4 votes')")
    tab.until(csv.exists, "the csv was never written")
    votes = read_verdicts(csv)
    assert set(votes.columns) >= set(COLUMNS)
    assert set(votes["benchmark"]) == {"mine"}
    for row in votes.to_dict("records"):
        shown, verdict = expected[row["question"]]
        assert row["verdict"] == verdict
        assert row["first"] == ("left, or not" if shown[0] == "L" else "right")
        assert row["answer_first"] == hash_answer(f"{shown} {ATTACK}")


def test_votes_are_kept_when_the_page_is_closed_and_can_be_changed(tab: Tab, file: Path) -> None:
    tab.press("2")
    tab.press("0")
    tab.open(file)
    assert "question 3 of 4, 2 compared" in text(tab, "count")
    tab.press("b")
    chosen = "document.querySelector('[aria-pressed=true]').dataset.vote"
    assert tab.value(chosen) == "tie"
    tab.press("1")
    tab.press("Backspace")
    assert tab.value(chosen) == "first"
    assert "2 compared" in text(tab, "count")


def test_typing_a_name_does_not_vote(tab: Tab, file: Path) -> None:
    tab.value("document.getElementById('judge').focus()")
    for key in "1":
        tab.press(key)
    assert "0 compared" in text(tab, "count")
    assert tab.value("kept.judge") == "human-11"
