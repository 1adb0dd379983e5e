"""Perplexity on a text, token by token, so that two runs can be paired (paper: Table 2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qlora_repro.errors import ConfigError, DataError
from qlora_repro.eval.score import mean_metric
from qlora_repro.eval.untouched import untouched
from qlora_repro.eval.windows import Compared, Window, compare, cut, window_losses
from qlora_repro.records import LOSS, PERPLEXITY, Metric
from qlora_repro.together import Distribute, compute_locally


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a text is read."""

    window: int  # tokens
    stride: int | None = None  # tokens from one window to the next; None: `window`
    max_tokens: int | None = None  # of the text; None: all
    batch_size: int = 1  # windows

    @property
    def name(self) -> str:
        """Tell readings apart: tokens scored in other contexts are other questions.

        >>> Reading(window=512).name, Reading(window=512, stride=128).name
        ('512', '512/128')
        """
        whole = self.stride in (None, self.window)
        return str(self.window) if whole else f"{self.window}/{self.stride}"


@dataclass(frozen=True, kw_only=True)
class TokenLosses:
    """Negative log-likelihoods of a text's tokens, in nats, in the order of the text.

    Two models with one tokenizer and one reading have the same tokens in the same places.
    """

    losses: list[float]
    ids: list[int]  # the token that each loss is about
    reading: str = ""
    compared: list[Compared] = field(default_factory=list)  # empty without a reference model

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
        n, mean = len(self.losses), self.mean
        squares = math.fsum((loss - mean) ** 2 for loss in self.losses)
        stderr = math.sqrt(squares / (n - 1) / n) if n > 1 else None
        values = (
            (PERPLEXITY, self.perplexity, None if stderr is None else self.perplexity * stderr),
            (LOSS, mean, stderr),
        )
        found = [
            Metric(run_id=run_id, task=PERPLEXITY, name=name, value=value, stderr=error, n=n)
            for name, value, error in values
        ]
        for name in ("kl", "same_top") if self.compared else ():
            scores = [getattr(token, name) for token in self.compared]
            found += mean_metric(scores, run_id=run_id, task=PERPLEXITY, name=name)
        return found


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


def perplexity(
    model: Any,
    tokenizer: Any,
    text: str,
    *,
    reading: Reading,
    reference: Any = None,
    distribute: Distribute = compute_locally,
) -> TokenLosses:
    """Score a text in windows, each token once.

    The token ids, with the tokenizer's own first token and no last one, are cut after
    `max_tokens`. Windows that do not overlap are what the GPTQ line of work and the paper use: a
    window of W tokens gives W - 1 losses, since its first token has no context. With a stride below
    the window, a window's first tokens were scored in the one before and are context alone, so that
    each token but the text's first has at least `window - stride` tokens before it.

    `reference` is a second model with the same tokenizer, which reads the same windows; each
    token's distribution is then compared with its. Leaves both models as it found them. Raises
    ConfigError for a reading that cannot be, DataError for a text of less than two tokens.
    """
    _check(model, reading)
    ids = tokenizer(text, verbose=False)["input_ids"][: reading.max_tokens]
    if len(ids) < 2:
        raise DataError(
            f"the text for perplexity has {len(ids)} tokens, and must have at least 2: the first "
            "has no context to be predicted from"
        )
    windows = cut(ids, window=reading.window, stride=reading.stride or reading.window)
    size = reading.batch_size
    batches = [windows[start : start + size] for start in range(0, len(windows), size)]

    def read(batch: Sequence[Window]) -> tuple[list[float], list[Compared]]:
        if reference is None:
            return window_losses(model, batch), []
        return compare(model, reference, batch)

    with untouched(model, tokenizer), untouched(reference or model, tokenizer):
        by_batch = distribute(batches, lambda some: [read(batch) for batch in some])
    return TokenLosses(
        losses=[loss for losses, _ in by_batch for loss in losses],
        ids=_scored(windows),
        reading=reading.name,
        compared=[token for _, tokens in by_batch for token in tokens],
    )


def _scored(windows: list[Window]) -> list[int]:
    return [token for window in windows for token in window.ids[-window.new :]]


def _check(model: Any, reading: Reading) -> None:
    if model.config.is_encoder_decoder:
        raise ConfigError(
            f"perplexity needs a decoder-only model, and {type(model).__name__} reads with an "
            "encoder; use eval.perplexity_file=null"
        )
    if reading.window < 2:
        raise ConfigError(
            f"eval.perplexity_window is {reading.window}, and must be at least 2 tokens"
        )
    if reading.stride is not None and not 1 <= reading.stride <= reading.window:
        raise ConfigError(
            f"eval.perplexity_stride is {reading.stride}, and must be from 1 to "
            f"eval.perplexity_window={reading.window}, so that no token is left out"
        )
