"""Logits that are no finite numbers, as a model writes: the rows whose text means nothing."""

from torch import Tensor
from transformers import LogitsProcessor


class FiniteLogits(LogitsProcessor):
    """Notes the rows of a batch whose logits were NaN or infinite while `generate` wrote."""

    def __init__(self) -> None:
        self.failed: Tensor | None = None  # (B,); on the model's device, so that no token waits

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        failed = ~scores.amax(dim=-1).isfinite()  # (B,); single tokens may be masked by -inf
        self.failed = failed if self.failed is None else self.failed | failed
        return scores

    def failed_rows(self) -> set[int]:
        """Return the numbers of these rows."""
        return set() if self.failed is None else set(self.failed.nonzero().flatten().tolist())
