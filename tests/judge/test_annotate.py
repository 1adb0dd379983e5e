"""The annotation page as text, and the command that writes it."""

import base64
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from qlora_repro.judge.annotate import build_page, main
from qlora_repro.records import Match


def match(number: int, *, first: str = "a", second: str = "b") -> Match:
    return Match(
        question_id=str(number),
        question="Why?",
        category="",
        lang="",
        first=first,
        second=second,
        answer_first=f"{first} says </script> {number}",
        answer_second=f"{second} says <!-- {number}",
        reference="",
    )


def data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_each_pair_is_shown_once_and_each_system_first_about_half_the_time() -> None:
    both = [match(k) for k in range(400)] + [match(k, first="b", second="a") for k in range(400)]
    rows = data(build_page(both, benchmark="x", seed=0))["rows"]
    assert sorted(int(row["question"]) for row in rows) == list(range(400))
    assert 160 < sum(row["first"] == "a" for row in rows) < 240  # 4 standard deviations


def test_texts_stand_in_the_order_that_the_row_records() -> None:
    found = data(build_page([match(k) for k in range(20)], benchmark="x", seed=1))
    for row, (_, first, second) in zip(found["rows"], found["texts"], strict=True):
        assert first.startswith(f"{row['first']} says")
        assert second.startswith(f"{row['second']} says")
        assert (row["chars_first"], row["chars_second"]) == (len(first), len(second))


def test_a_seed_gives_one_page_and_another_seed_another() -> None:
    rows = [match(k) for k in range(20)]
    once, again, other = (build_page(rows, benchmark="x", seed=seed) for seed in (0, 0, 1))
    assert once == again
    assert data(once)["key"] != data(other)["key"]


def test_only_the_pages_own_script_and_style_are_allowed() -> None:
    html = build_page([match(0)], benchmark="x", seed=0)
    policy = re.search(r'Policy" content="([^"]*)"', html)
    assert policy
    assert policy[1].startswith("default-src 'none'; ")
    for name in ("script", "style"):
        (body,) = re.findall(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy[1]
    assert "http" not in html.replace("http-equiv", "")


def test_a_match_list_makes_a_page(tmp_path: Path) -> None:
    listed, out = tmp_path / "mine.jsonl", tmp_path / "page.html"
    listed.write_text("\n".join(json.dumps(asdict(match(k))) for k in range(3)))
    assert main([str(listed), "--out", str(out)]) == 0
    assert {row["benchmark"] for row in data(out.read_text())["rows"]} == {"mine"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"question_id": 1}', "line 1 has no question; a match needs question_id, question,"),
        ("{", "line 1 is not JSON"),
        ("", "there is no match to compare"),
    ],
)
def test_a_match_list_that_is_none_is_refused_in_a_sentence(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "mine.jsonl"
    listed.write_text(text)
    assert main([str(listed), "--out", str(tmp_path / "page.html")]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
