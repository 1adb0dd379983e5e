"""Plans, prices and the cap on money: judged by hand-made sums and by what the server was asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from asking import match, settings
from loopback import Asked, Reply, completion, serving
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError, RunError
from qlora_repro.judge.cost import (
    TOKENS_PER_MESSAGE,
    estimate_input_tokens,
    find_price,
    load_token_counter,
    max_input_tokens,
    max_reply_tokens,
)
from qlora_repro.judge.openai import judge_openai
from qlora_repro.judge.protocol import build_request

Configured = Callable[..., RunConfig]
USED = {"prompt_tokens": 700, "completion_tokens": 100, "total_tokens": 800}
COSTS = (700 * 30 + 100 * 60) / 1e6  # USD, a reply of gpt-4


@pytest.mark.parametrize(
    ("model", "price"),
    [("gpt-4", (30, 60)), ("gpt-4-0613", (30, 60)), ("gpt-4o-2024-08-06", (2.5, 10))],
)
def test_a_snapshot_costs_what_its_model_costs(
    model: str, price: tuple[float, float], configured: Configured
) -> None:
    found = find_price(settings(configured, f"model={model}"))
    assert found is not None
    assert (found.input, found.output) == price


def test_a_snapshot_with_a_price_of_its_own_costs_that(configured: Configured) -> None:
    found = find_price(settings(configured, "model=gpt-4o-2024-05-13"))
    assert found is not None
    assert (found.input, found.output) == (5, 15)


def test_a_batch_costs_half_and_a_written_price_overrides_the_table(configured: Configured) -> None:
    half = find_price(settings(configured, "mode=batch"))
    own = find_price(settings(configured, "price={input: 1, output: 2}"))
    assert half is not None
    assert own is not None
    assert (half.input, half.output, own.input, own.output) == (15, 30, 1, 2)


def test_an_unknown_price_is_said_and_refused_only_where_money_is_capped(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, "model=mine", base_url=server.url)
        assert judge_openai([match()], cfg, tmp_path)[0].judge == "mine"
        assert "at a price that is not known" in capsys.readouterr().out
        with pytest.raises(ConfigError, match=r"judge.max_cost=5.0 needs a price"):
            judge_openai([match(1)], replace(cfg, max_cost=5.0), tmp_path)
    assert len(server.asked) == 1


def test_the_plan_counts_requests_tokens_and_money_before_anything_is_sent(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matches = [match(0), match(1), match(2), match(1)]
    said: list[str] = []

    def answer(asked: Asked) -> Reply:
        said.append(capsys.readouterr().out)
        return completion(usage=USED)

    with serving(answer) as server:
        cfg = settings(configured, "client.concurrency=1", base_url=server.url)
        judge_openai(matches[:1], cfg, tmp_path)
        capsys.readouterr()
        judge_openai(matches, cfg, tmp_path)
    chars = [
        sum(len(m["content"]) for m in build_request(matches[n], cfg)["messages"]) / 4
        for n in (1, 2)
    ]
    line = said[1].replace(",", "")
    assert "4 verdicts 3 requests (1 repeat another's) 1 of them answered before; to ask: 2" in line
    assert "700 out (estimated at 4 characters a token)" in line
    tokens = int(line.partition("about ")[2].split()[0])
    assert tokens == pytest.approx(sum(chars) + 2 * TOKENS_PER_MESSAGE, abs=4)
    assert f"${(tokens * 30 + 700 * 60) / 1e6:.2f}" in line
    assert f"beside ${COSTS:.2f} spent before" in line


def test_tokens_are_counted_by_a_tokenizer_where_one_is_named(
    configured: Configured, tmp_path: Path
) -> None:
    words = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    count, how = load_token_counter(settings(configured, f"estimate.tokenizer={tmp_path}"))
    assert count("one two three") == 3
    assert str(tmp_path) in how
    with pytest.raises(ConfigError, match="cannot be read"):
        load_token_counter(settings(configured, f"estimate.tokenizer={tmp_path}/none"))


def test_a_run_that_is_planned_above_the_cap_does_not_start(
    configured: Configured, tmp_path: Path
) -> None:
    with serving(lambda asked: completion()) as server:
        cfg = settings(configured, "max_cost=0.01", base_url=server.url)
        with pytest.raises(ConfigError, match=r"planned at \$0\.\d+, and judge.max_cost is 0.01"):
            judge_openai([match(number) for number in range(5)], cfg, tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_run_stops_before_it_crosses_the_cap_also_after_a_restart(
    concurrency: int, configured: Configured, tmp_path: Path
) -> None:
    """Each reply takes twice the planned tokens, so the plan fits and the run does not."""
    used = {"prompt_tokens": 1200, "completion_tokens": 700, "total_tokens": 1900}
    each = (1200 * 30 + 700 * 60) / 1e6
    matches = [match(number) for number in range(60)]
    words = ("max_cost=3", f"client.concurrency={concurrency}", "request.max_tokens=1000")
    with serving(lambda asked: completion(usage=used)) as server:
        cfg = settings(configured, *words, base_url=server.url)
        for _ in range(2):
            with pytest.raises((RunError, ConfigError), match=r"judge\.max_cost"):
                judge_openai(matches, cfg, tmp_path)
    bound = (max_input_tokens(build_request(matches[0], cfg)) * 30 + 1000 * 60) / 1e6
    spent = len(server.asked) * each
    assert 3 - bound - each < spent <= 3


def test_a_cap_needs_a_limit_to_the_length_of_a_reply(
    configured: Configured, tmp_path: Path
) -> None:
    cfg = settings(configured, "max_cost=9")
    cfg.request.pop("max_tokens")
    with pytest.raises(ConfigError, match="max_completion_tokens"):
        judge_openai([match()], cfg, tmp_path)
    assert max_reply_tokens(cfg) is None


def test_a_try_whose_reply_is_lost_counts_at_the_most_that_it_may_have_cost(
    configured: Configured, tmp_path: Path
) -> None:
    with serving(lambda asked: replace(completion(), send=30)) as server:
        cfg = settings(configured, "client.attempts=5", base_url=server.url)
        bound = (max_input_tokens(build_request(match(), cfg)) * 30 + 1024 * 60) / 1e6
        with pytest.raises(RunError, match=r"judge\.max_cost"):
            judge_openai([match()], replace(cfg, max_cost=2.5 * bound), tmp_path)
    assert len(server.asked) == 2


@pytest.mark.parametrize("text", ["plain words", "日本語のテキスト", "🎉" * 50, '\n\t\\"' * 9])
def test_the_bound_on_input_tokens_is_above_any_tokenizer_of_bytes(
    text: str, configured: Configured
) -> None:
    body = build_request(match(answer_first=text), settings(configured))
    in_bytes = sum(len(m["content"].encode()) for m in body["messages"])
    assert max_input_tokens(body) >= in_bytes + 2 * TOKENS_PER_MESSAGE
    assert estimate_input_tokens(body, lambda part: len(part.encode())) <= max_input_tokens(body)
