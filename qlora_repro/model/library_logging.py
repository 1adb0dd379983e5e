"""What other libraries write to the terminal, silenced: their logs, warnings and progress bars."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

OnProgress = Callable[[int, int], None]  # (done, total) requests of the pass that is running
LOGGERS = ("lm_eval", "transformers", "datasets", "huggingface_hub", "httpx")


@contextmanager
def silence_progress_bars() -> Iterator[None]:
    """Silence transformers' progress bars, such as that of each checkpoint it writes."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Silence transformers' warnings and progress bars."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with silence_progress_bars():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def silence_deprecations() -> Iterator[None]:
    """Silence what libraries tell each other about renamed attributes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextmanager
def silence_lm_eval(on_progress: OnProgress | None = None) -> Iterator[None]:
    """Silence lm-eval and what it uses, below errors; report the requests done to `on_progress`."""
    import datasets
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.models.huggingface

    class Counter(ProgressCounter):
        report = staticmethod(on_progress) if on_progress else None

    with_bars: tuple[Any, ...] = (lm_eval.api.model, lm_eval.api.task, lm_eval.models.huggingface)
    bars = [(module, module.tqdm) for module in with_bars]
    levels = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    datasets_bars = not datasets.are_progress_bars_disabled()
    try:
        for module, _ in bars:
            module.tqdm = Counter
        for logger, _ in levels:
            logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        yield
    finally:
        for module, tqdm in bars:
            module.tqdm = tqdm
        for logger, level in levels:
            logger.setLevel(level)
        if datasets_bars:
            datasets.enable_progress_bars()


class ProgressCounter:
    """Stands in for tqdm: draws nothing, and reports how many requests are done."""

    report: OnProgress | None = None

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
        # other bars count prompts being built and tokenized, which takes no time worth showing
        self.reports = desc.startswith("Running") and not disable

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def update(self, n: int = 1) -> None:
        """Count n more requests."""
        self.done += n
        if self.reports and self.report is not None:
            self.report(self.done, self.total)

    def close(self) -> None:
        """Do nothing: there is no bar to close."""
