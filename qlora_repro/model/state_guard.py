"""Leave a live model as it was found, and keep other libraries' bars and logs off the terminal."""

import copy
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import lm_eval.api.model
import lm_eval.api.task
import lm_eval.models.huggingface
import numpy as np
import torch
import transformers
from torch import nn

OnProgress = Callable[[int, int], None]  # (done, total) requests of the pass that is running
TOKENIZER_STATE = ("padding_side", "truncation_side", "pad_token", "model_max_length")
BARS = (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface)  # they draw with tqdm
LOGGERS = ("lm_eval", "transformers", "datasets", "huggingface_hub", "httpx")


@contextmanager
def untouched(model: nn.Module, tokenizer: Any) -> Iterator[None]:
    """Run the body in eval mode without gradients, then put everything back.

    Covered: the training mode of every module, requires_grad, the model's and its generation
    configuration, the tokenizer's padding, and the random states of python, numpy and torch.
    """
    modes = [(module, module.training) for module in model.modules()]
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    configs = [
        (part, copy.deepcopy(part.__dict__))
        for part in (getattr(model, "config", None), getattr(model, "generation_config", None))
        if part is not None
    ]
    padding = {name: getattr(tokenizer, name, None) for name in TOKENIZER_STATE}
    try:
        with random_states_kept(), torch.no_grad():
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
        for name, value in padding.items():
            if getattr(tokenizer, name, None) != value:
                setattr(tokenizer, name, value)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states of python, numpy and torch (every CUDA device) afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class Counter:
    """Stands in for tqdm: draws nothing, tells `on_progress` what is done."""

    on_progress: OnProgress | None = None

    def __init__(
        self,
        rows: Iterable[Any] = (),
        total: int | None = None,
        *,
        disable: bool = False,
        desc: str = "",
    ) -> None:
        self.rows = rows
        self.total = total or 0
        self.done = 0
        # the other bars count prompts being built and tokenized, which takes no time worth showing
        self.shown = desc.startswith("Running") and not disable

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def update(self, n: int = 1) -> None:
        """Count n more requests."""
        self.done += n
        if self.shown and self.on_progress is not None:
            self.on_progress(self.done, self.total)

    def close(self) -> None:
        """Do nothing: there is no bar to close."""


@contextmanager
def quiet(on_progress: OnProgress | None = None) -> Iterator[None]:
    """Silence bars and logs below errors; requests done are reported to `on_progress` instead."""
    bar: type[Counter] = Counter
    if on_progress is not None:
        bar = type("ReportingCounter", (Counter,), {"on_progress": staticmethod(on_progress)})
    bars = [(module, module.tqdm) for module in BARS]
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in LOGGERS]
    verbosity = transformers.utils.logging.get_verbosity()
    drawn = not datasets.are_progress_bars_disabled()
    try:
        for module, _ in bars:
            module.tqdm = bar
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        yield
    finally:
        for module, tqdm in bars:
            module.tqdm = tqdm
        for logger, level in levels:
            logger.setLevel(level)
        transformers.utils.logging.set_verbosity(verbosity)
        if drawn:
            datasets.enable_progress_bars()
