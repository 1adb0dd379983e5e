"""Requests divided among processes: the answers of one, each context in one process."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlora_repro.errors import RunError
from qlora_repro.eval.language_models import DistributedLM, SharedContextLM
from qlora_repro.model.library_logging import silence_lm_eval

TEXTS = ["Short?", "A longer question, is it not?", "Middling one?", "And the last of them?", "Or?"]
ARGUMENTS: dict[str, list[tuple[Any, ...]]] = {
    "loglikelihood": [(text, answer) for answer in (" 3", " 31", " no") for text in TEXTS],
    "loglikelihood_rolling": [(text,) for text in TEXTS],
    "generate_until": [(text, {"until": ["\n"], "max_gen_toks": 4}) for text in TEXTS],
}


def requests(kind: Any) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=arguments, idx=number)
        for number, arguments in enumerate(ARGUMENTS[kind])
    ]


def in_two(pieces: Sequence[Any], compute: Callable[[Sequence[Any]], Sequence[Any]]) -> list[Any]:
    """Compute as two ranks do, one after the other."""
    assert len(pieces) == len(TEXTS)  # a context is one piece, whatever is asked after it
    parts = [compute(pieces[rank::2]) for rank in range(2)]
    return [parts[number % 2][number // 2] for number in range(len(pieces))]


@pytest.mark.parametrize("wrapper", [DistributedLM, SharedContextLM])
@pytest.mark.parametrize("kind", ARGUMENTS)
def test_two_parts_have_the_answers_of_the_whole(
    kind: str,
    wrapper: type[DistributedLM],
    random_llama: LlamaForCausalLM,
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    live = {"pretrained": random_llama, "tokenizer": byte_tokenizer, "backend": "causal"}
    lm = wrapper(batch_size=2, **live)
    lm.distribute = in_two
    with silence_lm_eval(), torch.no_grad():
        expected = getattr(HFLM(batch_size=2, **live), kind)(requests(kind))
        answers = getattr(lm, kind)(requests(kind))
    if kind == "loglikelihood":
        answers, expected = ([score for score, _ in pairs] for pairs in (answers, expected))
    if kind != "generate_until":  # other batches are padded otherwise, and so float32 rounds
        expected = pytest.approx(expected, abs=1e-4)
    assert answers == expected


def test_processes_that_drew_different_questions_are_refused(
    random_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = DistributedLM(
        pretrained=random_llama, tokenizer=byte_tokenizer, backend="causal", batch_size=2
    )

    def out_of_order(pieces: Sequence[Any], compute: Any) -> list[Any]:
        return list(compute(pieces[::-1]))

    lm.distribute = out_of_order
    with (
        silence_lm_eval(),
        torch.no_grad(),
        pytest.raises(RunError, match="drew different questions"),
    ):
        lm.loglikelihood(requests("loglikelihood"))
