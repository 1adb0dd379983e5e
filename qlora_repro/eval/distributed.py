"""lm-eval's wrapper of a model whose requests are divided among processes that each hold it."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from qlora_repro.errors import RunError
from qlora_repro.together import Distribute, compute_locally

Answer = Callable[[list[Instance]], Sequence[Any]]  # one result a request


class DistributedLM(HFLM):
    """lm-eval's HFLM with each rank answering its part of the requests; in one process, all."""

    distribute: Distribute = staticmethod(compute_locally)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood in nats, is it greedy) of each request's continuation."""
        answer = super().loglikelihood
        return self._divide(requests, lambda some: answer(some, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood in nats of each request's whole text."""
        answer = super().loglikelihood_rolling
        return self._divide(requests, lambda some: answer(some, disable_tqdm=disable_tqdm))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text that the model writes after each request."""
        answer = super().generate_until
        return self._divide(requests, lambda some: answer(some, disable_tqdm=disable_tqdm))

    def _divide(self, requests: list[Instance], answer: Answer) -> list[Any]:
        """Answer the requests of one context in one process, and longest contexts first.

        Raises RunError where the processes do not ask the same.
        """
        if self.distribute is compute_locally:
            return list(answer(requests))
        by_context: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            by_context[request.args[0]].append(number)
        groups = sorted(by_context.values(), key=lambda group: -len(requests[group[0]].args[0]))

        def answer_groups(some: Sequence[list[int]]) -> list[tuple[str, list[Any]]]:
            asked = [requests[number] for group in some for number in group]
            results = iter(answer(asked))
            return [(_digest(requests, group), [next(results) for _ in group]) for group in some]

        answered: list[Any] = [None] * len(requests)
        for group, (asked, results) in zip(
            groups, self.distribute(groups, answer_groups), strict=True
        ):
            if asked != _digest(requests, group):
                raise RunError(
                    "the processes drew different questions for the same task; check that all "
                    "read the same data set and that the task's code draws by a fixed seed"
                )
            for number, result in zip(group, results, strict=True):
                answered[number] = result
        return answered


def _digest(requests: Sequence[Instance], group: Sequence[int]) -> str:
    return hashlib.sha256(repr([requests[number].args for number in group]).encode()).hexdigest()
