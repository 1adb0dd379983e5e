"""A reproduction and ablation harness for QLoRA (Dettmers et al., 2023, arXiv 2305.14314)."""

import importlib
import logging
from typing import Any

__version__ = "0.1.0"

# On CPUs with AVX512-BF16 its import says that an optional kernel package is missing.
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)

LOADERS = (
    "load_runs",
    "load_metrics",
    "load_answers",
    "load_steps",
    "load_generations",
    "load_judgments",
    "load_measurements",
    "load_plans",
)


def __getattr__(name: str) -> Any:
    """Import the loaders of `store.load` when they are first used: pandas takes its time."""
    if name not in LOADERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("qlora_repro.store.load"), name)
