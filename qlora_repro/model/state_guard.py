"""Leave a model, its tokenizer and random generators as they were; watch what logits it gives."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LogitsProcessor

TOKENIZER_STATE = ("padding_side", "truncation_side", "pad_token", "model_max_length")


@contextmanager
def preserve_model_state(model: nn.Module, tokenizer: Any) -> Iterator[None]:
    """Run the body in eval mode without gradients, then put everything back.

    Covered: the training mode of every module, requires_grad, the model's and its generation
    configuration, the tokenizer's settings, and the random states of python, numpy and torch.
    """
    modes = [(module, module.training) for module in model.modules()]
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    configs = [
        (part, copy.deepcopy(part.__dict__))
        for part in (getattr(model, "config", None), getattr(model, "generation_config", None))
        if part is not None
    ]
    try:
        with preserve_random_states(), preserve_tokenizer(tokenizer), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in trained:
            weight.requires_grad_(requires_grad)
        for part, state in configs:
            part.__dict__.clear()
            part.__dict__.update(state)


@contextmanager
def preserve_tokenizer(tokenizer: Any) -> Iterator[None]:
    """Restore a tokenizer's settings afterwards: those of its Rust backend are saved with it."""
    settings = {name: getattr(tokenizer, name, None) for name in TOKENIZER_STATE}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    padding, truncation = getattr(backend, "padding", None), getattr(backend, "truncation", None)
    try:
        yield
    finally:
        for name, value in settings.items():
            if getattr(tokenizer, name, None) != value:
                setattr(tokenizer, name, value)
        if backend is not None:
            backend.enable_padding(**padding) if padding else backend.no_padding()
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()


@contextmanager
def preserve_random_states() -> Iterator[None]:
    """Restore the random states of python, numpy and torch (every CUDA device) afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


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
