import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlora_repro.eval.held_out import generate_greedily, rouge_l, score_rouge
from qlora_repro.records import Example


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1.0),
        ("dog", "cat", 0.0),
        ("a b c d", "a c e", 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),  # longest in common: a c
        ("running dogs", "run dog", 1.0),  # stems
    ],
)
def test_rouge_l_is_the_harmonic_mean_over_the_longest_common_subsequence(
    answer: str, target: str, expected: float
) -> None:
    assert rouge_l(answer, target) == pytest.approx(expected)


def test_rows_get_their_own_score_and_the_mean_is_theirs(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    sources = ["one?", "another, longer?", "x"]
    replies = generate_greedily(
        random_llama, byte_tokenizer, sources, batch_size=2, max_new_tokens=5
    )
    rows = [
        Example(source=source, target=target)
        for source, target in zip(sources, [f"{replies[0]} tail", "zzz", "yyy"], strict=True)
    ]
    metrics, answers = score_rouge(rows, replies, run_id="r")
    expected = [rouge_l(reply, row.target) for reply, row in zip(replies, rows, strict=True)]
    assert [answer.value for answer in answers] == expected
    assert [answer.reply for answer in answers] == replies
    assert metrics[0].value == pytest.approx(sum(expected) / 3)
    assert metrics[0].n == 3


def test_left_padding_does_not_change_a_greedy_answer(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    sources = ["short", "a source that is a good deal longer", "mid length one"]
    together, alone = (
        generate_greedily(random_llama, byte_tokenizer, sources, batch_size=size, max_new_tokens=8)
        for size in (3, 1)
    )
    assert together == alone
    assert any(together)


def test_no_held_out_rows_no_scores(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    state = torch.get_rng_state()
    replies = generate_greedily(random_llama, byte_tokenizer, [], batch_size=2, max_new_tokens=5)
    assert score_rouge([], replies, run_id="r") == ([], [])
    assert torch.equal(torch.get_rng_state(), state)
