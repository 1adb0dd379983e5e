"""lm-eval's wrappers of a model: one divides requests among processes, one shares contexts.

Each process holds the whole model and answers its part of the requests. The likelihoods of several
answers to one question are computed with the question read once.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models import huggingface
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.errors import RunError
from qlora_repro.model.state_guard import FiniteLogits

AnswerRequests = Callable[[list[Instance]], Sequence[Any]]  # one result a request


class DistributedLM(HFLM):
    """lm-eval's HFLM with each rank answering its part of the requests; in one process, all."""

    distribute: Distribute = staticmethod(compute_locally)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.failed: list[
            tuple[Any, ...]
        ] = []  # arguments of requests whose logits were no numbers
        self._contexts: Sequence[str] = ()  # of the batch that is being written
        self._failed_contexts: set[str] = set()

    def tok_batch_encode(self, strings: Sequence[str], *args: Any, **options: Any) -> Any:
        """Return the tokens of a batch; its texts name the rows that fail."""
        self._contexts = strings
        return super().tok_batch_encode(strings, *args, **options)

    def _model_generate(self, *args: Any, **options: Any) -> Any:
        watch = FiniteLogits()
        written = super()._model_generate(*args, logits_processor=[watch], **options)
        self._failed_contexts |= {self._contexts[row] for row in watch.failed_rows()}
        return written

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood in nats, is it greedy) of each request's continuation."""
        answer = super().loglikelihood
        results = self._divide(requests, lambda some: answer(some, disable_tqdm=disable_tqdm))
        self._note_failed(requests, [likelihood for likelihood, _ in results])
        return results

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood in nats of each request's whole text."""
        answer = super().loglikelihood_rolling
        results = self._divide(requests, lambda some: answer(some, disable_tqdm=disable_tqdm))
        self._note_failed(requests, results)
        return results

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text that the model writes after each request."""
        answer = super().generate_until

        def write(some: list[Instance]) -> list[str | None]:
            texts = answer(some, disable_tqdm=disable_tqdm)
            failed = [request.args[0] in self._failed_contexts for request in some]
            return [None if bad else text for text, bad in zip(texts, failed, strict=True)]

        results = self._divide(requests, write)
        self._note_failed(requests, [math.nan if text is None else 0.0 for text in results])
        return [text or "" for text in results]

    def _note_failed(self, requests: Sequence[Instance], values: Sequence[float]) -> None:
        pairs = zip(requests, values, strict=True)
        self.failed += [request.args for request, value in pairs if not math.isfinite(value)]

    def _divide(self, requests: list[Instance], answer: AnswerRequests) -> list[Any]:
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
            results = iter(answer([requests[number] for group in some for number in group]))
            return [
                (_digest_group(requests, group), [next(results) for _ in group]) for group in some
            ]

        answered: list[Any] = [None] * len(requests)
        for group, (digest, results) in zip(
            groups, self.distribute(groups, answer_groups), strict=True
        ):
            if digest != _digest_group(requests, group):
                raise RunError(
                    "the processes drew different questions for the same task; check that all "
                    "read the same data set and that the task's code draws by a fixed seed"
                )
            for number, result in zip(group, results, strict=True):
                answered[number] = result
        return answered


def _digest_group(requests: Sequence[Instance], group: Sequence[int]) -> str:
    return hashlib.sha256(repr([requests[number].args for number in group]).encode()).hexdigest()


Request = tuple[tuple[str, str], list[int], list[int]]  # (texts, context tokens, answer tokens)
Pair = tuple[int, tuple[int, ...]]  # (row of the batch, answer tokens but the last)


class SharedContextLM(DistributedLM):
    """lm-eval's HFLM with the keys and values of a context shared among its continuations.

    HFLM reads the whole prompt again for each choice of more than one token. The likelihoods are
    the same up to rounding. Decoder-only models with a key-value cache.
    """

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        waiting: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (_, context, _) in enumerate(requests):
            waiting[tuple(context)].append(number)
        contexts = sorted(waiting, key=lambda tokens: (-len(tokens), tokens))  # least padding
        scores: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        bar = huggingface.tqdm(total=len(requests), disable=disable_tqdm, desc="Running choices")
        size = override_bs or int(self.batch_size)
        for start in range(0, len(contexts), size):
            batch = contexts[start : start + size]
            pairs = [
                (row, number) for row, tokens in enumerate(batch) for number in waiting[tokens]
            ]
            answers = [(row, requests[number][2]) for row, number in pairs]
            for (_, number), score in zip(pairs, self._scores(batch, answers), strict=True):
                scores[number] = score
            bar.update(len(pairs))
        bar.close()
        return scores

    def _scores(
        self, contexts: Sequence[tuple[int, ...]], answers: Sequence[tuple[int, list[int]]]
    ) -> Iterator[tuple[float, bool]]:
        """Yield (log-likelihood in nats, is it greedy) of each answer. B contexts, V tokens."""
        room = self.max_length - max(len(tokens) for _, tokens in answers)
        ids, mask = self._left_padded([tokens[-room:] for tokens in contexts])  # (B, T) each
        first, cache = self._log_probabilities(ids, mask, (mask.cumsum(1) - 1).clamp_min(0), keep=1)
        pairs = sorted({(row, tuple(tokens[:-1])) for row, tokens in answers if len(tokens) > 1})
        later = self._continue(pairs, mask, cache) if pairs else None  # (P, L, V)
        for row, tokens in answers:
            logits = first[row]  # (1, V): what follows the context
            if later is not None and len(tokens) > 1:
                after = later[pairs.index((row, tuple(tokens[:-1]))), : len(tokens) - 1]
                logits = torch.cat([logits, after])  # (tokens, V)
            wanted = torch.tensor(tokens, device=logits.device)[:, None]  # (tokens, 1)
            greedy = bool((logits.argmax(1, keepdim=True) == wanted).all())
            yield float(logits.gather(1, wanted).sum()), greedy

    def _continue(self, pairs: list[Pair], mask: Tensor, cache: Any) -> Tensor:
        """Read each pair's tokens after its row's context: log-probabilities (P, L, V)."""
        rows = torch.tensor(
            [row for row, _ in pairs]
        )  # (P,); on the host: caches may be on any card
        longest = max(len(tokens) for _, tokens in pairs)
        filled = [list(tokens) + [0] * (longest - len(tokens)) for _, tokens in pairs]
        ids = torch.tensor(filled, device=mask.device)  # (P, L); what pads comes last and is unread
        cache.batch_select_indices(rows)
        positions = mask[rows].sum(1, keepdim=True) + torch.arange(longest, device=mask.device)
        return self._log_probabilities(
            ids, torch.cat([mask[rows], torch.ones_like(ids)], 1), positions, cache
        )[0]

    def _log_probabilities(
        self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any = None, *, keep: int = 0
    ) -> tuple[Tensor, Any]:
        """Return float32 log-probabilities of the last `keep` positions (0: all) and the cache."""
        wrapped = getattr(self.model, "get_base_model", None)  # PEFT hides the model's arguments
        known = signature((wrapped() if wrapped else self.model).forward).parameters
        extra = {"position_ids": positions, "logits_to_keep": keep}
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in extra.items() if name in known},
        )
        logits = out.logits[:, -keep:].float()  # a slice from -0 is all of it
        return logits.log_softmax(-1), out.past_key_values

    def _left_padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return (ids, mask), both (B, T); the last token of each row is in the last column."""
        longest = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, longest - len(row) :] = torch.tensor(row)
            mask[number, longest - len(row) :] = 1
        return ids.to(self.device), mask.to(self.device)
