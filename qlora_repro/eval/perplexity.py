"""Perplexity on a text, token by token, so that two runs can be paired (paper: Table 2).

The text is read in windows, by one model or by a quantized one beside its 16-bit reference.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qlora_repro.config.registry import FULL_PRECISION
from qlora_repro.config.schema import DtypeConfig, EvalConfig, ModelConfig
from qlora_repro.console import say
from qlora_repro.distributed.process_group import Distribute, compute_locally
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.eval.metrics import finite_or_none, finite_scores, mean_metric, missing_metric
from qlora_repro.model.load import load_base
from qlora_repro.model.state_guard import preserve_model_state
from qlora_repro.records import LOSS, PERPLEXITY, Answer, Metric

LARGEST_EXPONENT = 709.0  # of which exp is still a float


@dataclass(frozen=True)
class Window:
    """Some consecutive tokens of a text."""

    ids: Sequence[int]
    new: int  # how many at its end are scored; the others are context


@dataclass(frozen=True)
class TokenComparison:
    """One token's next-token distribution against the reference model's."""

    kl: float  # nats: how much the reference's samples cost more to code, never below zero
    same_top: float  # 1.0 when both find the same token the likeliest, else 0.0


def cut_windows(ids: Sequence[int], *, window: int, stride: int) -> list[Window]:
    """Cut a text into windows in which every token but the text's first is new once.

    A token without context has no loss: with `stride == window` the first token of each window is
    not scored, and a last window of one such token is dropped.

    >>> [(list(w.ids), w.new) for w in cut_windows(range(6), window=4, stride=2)]
    [([0, 1, 2, 3], 3), ([2, 3, 4, 5], 2)]
    >>> [(list(w.ids), w.new) for w in cut_windows(range(7), window=4, stride=4)]
    [([0, 1, 2, 3], 3), ([4, 5, 6], 2)]
    """
    windows = []
    done = 0  # tokens that an earlier window held
    for start in range(0, len(ids), stride):
        tokens = ids[start : start + window]
        new = min(start + len(tokens) - done, len(tokens) - 1)
        if new > 0:
            windows.append(Window(tokens, new))
        done = start + len(tokens)
        if done == len(ids):
            break
    return windows


def window_losses(model: Any, windows: Sequence[Window]) -> list[float]:
    """Return the losses of the new tokens of a batch of windows, one window after the other."""
    losses: list[float] = []
    for logits, targets in _scored_tokens(_batch_logits(model, windows), windows):
        losses += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
    return losses


def compare_windows(
    model: Any, reference: Any, windows: Sequence[Window]
) -> tuple[list[float], list[TokenComparison]]:
    """Return the model's losses on the new tokens, and its distributions against the reference's.

    The divergence is D(reference || model) over the whole vocabulary, in float32; what rounding
    leaves below zero is zero.
    """
    losses: list[float] = []
    compared: list[TokenComparison] = []
    ours = _scored_tokens(_batch_logits(model, windows), windows)
    theirs = _scored_tokens(_batch_logits(reference, windows), windows)
    for (logits, targets), (expected, _) in zip(ours, theirs, strict=True):
        q = logits.log_softmax(dim=-1)  # (M, V)
        p = expected.to(q.device).log_softmax(dim=-1)  # (M, V)
        kl = (p.exp() * (p - q)).sum(dim=-1).clamp_min(0)  # (M,)
        same = (p.argmax(dim=-1) == q.argmax(dim=-1)).float()  # (M,)
        same[p.isnan().any(dim=-1) | q.isnan().any(dim=-1)] = math.nan  # missing
        losses += (-q.gather(1, targets[:, None])).squeeze(1).tolist()
        compared += [
            TokenComparison(*pair) for pair in zip(kl.tolist(), same.tolist(), strict=True)
        ]
    return losses, compared


def _batch_logits(model: Any, windows: Sequence[Window]) -> Tensor:
    """Return (B, T, V): B windows, filled up to the T tokens of the longest."""
    longest = max(len(window.ids) for window in windows)
    ids = torch.zeros(len(windows), longest, dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(windows):
        ids[row, : len(window.ids)] = torch.tensor(window.ids)  # padding comes last
        mask[row, : len(window.ids)] = 1
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


def _scored_tokens(logits: Tensor, windows: Sequence[Window]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits (M, V) in float32, targets (M,)) of each window's M new tokens."""
    for row, window in enumerate(windows):
        end = len(window.ids)
        targets = torch.tensor(window.ids[end - window.new :], device=logits.device)
        yield logits[row, end - window.new - 1 : end - 1].float(), targets


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a text is cut into windows."""

    window: int  # tokens
    stride: int | None = None  # tokens from one window to the next; None: `window`
    max_tokens: int | None = None  # of the text; None: all
    batch_size: int = 1  # windows

    @property
    def name(self) -> str:
        """Tell windowings apart: tokens scored in other contexts are other questions.

        >>> Windowing(window=512).name, Windowing(window=512, stride=128).name
        ('512', '512/128')
        """
        overlaps = self.stride not in (None, self.window)
        return f"{self.window}/{self.stride}" if overlaps else str(self.window)


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """Negative log-likelihoods of a text's tokens, in nats, in the order of the text.

    Two models with one tokenizer and one windowing have the same tokens at the same positions.
    """

    losses: list[float]
    ids: list[int]  # the token that each loss is about
    windowing: str = ""  # the name of one
    compared: list[TokenComparison] = field(default_factory=list)  # empty without a reference model

    @property
    def mean(self) -> float:
        """Nats per token."""
        return math.fsum(self.losses) / len(self.losses)

    @property
    def perplexity(self) -> float:
        """Return exp of the mean loss, as in the paper."""
        return math.exp(self.mean)

    def metrics(self, *, run_id: str) -> list[Metric]:
        """Return perplexity and mean loss as records, with the comparison where there is one.

        Of these only `same_top` is a fraction; `kl` is in nats per token. The errors take tokens as
        independent, which they are not: they are lower bounds.
        """
        losses = finite_scores(self.losses)  # the others are missing, and LOSS counts them
        n, mean = len(losses), math.fsum(losses) / max(len(losses), 1)
        squares = math.fsum((loss - mean) ** 2 for loss in losses)
        stderr = math.sqrt(squares / (n - 1) / n) if n > 1 else None
        perplexity = math.exp(mean) if n and mean < LARGEST_EXPONENT else None
        error = None if stderr is None or perplexity is None else perplexity * stderr
        values = ((PERPLEXITY, perplexity, error), (LOSS, mean if n else None, stderr))
        metrics = [
            Metric(run_id=run_id, task=PERPLEXITY, name=name, value=value, stderr=error, n=n)
            for name, value, error in values
        ]
        metrics += missing_metric(n, len(self.losses), run_id=run_id, task=PERPLEXITY, name=LOSS)
        for name, scores in self._comparisons().items():
            metrics += mean_metric(scores, run_id=run_id, task=PERPLEXITY, name=name)
        return metrics

    def _comparisons(self) -> dict[str, list[float]]:
        names = ("kl", "same_top") if self.compared else ()
        return {name: [getattr(token, name) for token in self.compared] for name in names}

    def answers(self, *, run_id: str) -> list[Answer]:
        """Return a record a token and score, so that two runs on one text can be paired.

        The document is the token at its position, in the context that the windowing gives it.
        """
        scores = {LOSS: self.losses, **self._comparisons()}
        return [
            Answer(
                run_id=run_id,
                task=PERPLEXITY,
                name=name,
                doc_id=position,
                doc_hash=f"{self.windowing}:{position}:{token}",
                value=finite_or_none(value),
            )
            for name, values in scores.items()
            for position, (token, value) in enumerate(zip(self.ids, values, strict=True))
        ]


def read_text(path: str) -> str:
    """Return a text file's content; DataError when there is none."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"eval.perplexity_file is {path}, which cannot be read as UTF-8 text "
            f"({type(error).__name__}); name a text file"
        ) from error
    if not text.strip():
        raise DataError(f"eval.perplexity_file is {path}, which is empty; name a file with text")
    return text


def measure_perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    windowing: Windowing,
    reference: Any = None,
    distribute: Distribute = compute_locally,
) -> TokenLosses:
    """Score a text in windows, each token once.

    Windows that do not overlap are what the GPTQ line of work and the paper use: a window of W
    tokens gives W - 1 losses, since its first token has no context. With a stride below the window,
    a window's first tokens were scored in the one before and are context alone, so that each token
    but the text's first has at least `window - stride` tokens before it. Models are left as they
    were.

    Args:
        model: A decoder-only model.
        tokenizer: Its tokenizer, whose own first token is read too, and no last one.
        text: The text.
        windowing: How it is cut.
        reference: A second model with the same tokenizer, which reads the same windows; each
            token's distribution is then compared with its.
        distribute: Divides the windows among processes.

    Raises:
        ConfigError: The windowing cannot be, or the model reads with an encoder.
        DataError: The text has less than two tokens.
    """
    _check_windowing(model, windowing)
    ids = tokenizer(text, verbose=False)["input_ids"][: windowing.max_tokens]
    if len(ids) < 2:
        raise DataError(
            f"the text for perplexity has {len(ids)} tokens, and must have at least 2: the first "
            "has no context to be predicted from"
        )
    windows = cut_windows(ids, window=windowing.window, stride=windowing.stride or windowing.window)
    size = windowing.batch_size
    batches = [windows[start : start + size] for start in range(0, len(windows), size)]

    def read_windows(batch: Sequence[Window]) -> tuple[list[float], list[TokenComparison]]:
        if reference is None:
            return window_losses(model, batch), []
        return compare_windows(model, reference, batch)

    with (
        preserve_model_state(model, tokenizer),
        preserve_model_state(reference or model, tokenizer),
    ):
        by_batch = distribute(batches, lambda some: [read_windows(batch) for batch in some])
    return TokenLosses(
        losses=[loss for losses, _ in by_batch for loss in losses],
        ids=[token for window in windows for token in window.ids[-window.new :]],
        windowing=windowing.name,
        compared=[token for _, tokens in by_batch for token in tokens],
    )


def _check_windowing(model: Any, windowing: Windowing) -> None:
    if model.config.is_encoder_decoder:
        raise ConfigError(
            f"perplexity needs a decoder-only model, and {type(model).__name__} reads with an "
            "encoder; use eval.perplexity_file=null"
        )
    if windowing.window < 2:
        raise ConfigError(
            f"eval.perplexity_window is {windowing.window}, and must be at least 2 tokens"
        )
    if windowing.stride is not None and not 1 <= windowing.stride <= windowing.window:
        raise ConfigError(
            f"eval.perplexity_stride is {windowing.stride}, and must be from 1 to "
            f"eval.perplexity_window={windowing.window}, so that no token is left out"
        )


def load_reference(model: ModelConfig, dtype: DtypeConfig, cfg: EvalConfig) -> Any:
    """Return the model with no layer quantized, in the same compute type, to compare with.

    None where the eval section does not ask for it, and for a model that is not quantized. The
    caller holds both models in memory.
    """
    if not (cfg.reference and cfg.perplexity_file) or dtype.name in FULL_PRECISION:
        return None
    say(f"loading {model.name} as bf16, to compare with")
    return load_base(model, replace(dtype, name="bf16", backend="none"), dq=False).model
