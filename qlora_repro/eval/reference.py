"""The 16-bit model that a quantized one is compared with, token by token."""

from dataclasses import replace
from typing import Any

from qlora_repro.config import FULL_PRECISION, DtypeConfig, EvalConfig, ModelConfig
from qlora_repro.console import say
from qlora_repro.model.load import load_base


def reference(model: ModelConfig, dtype: DtypeConfig, cfg: EvalConfig) -> Any:
    """Return the model with no layer quantized and in the same compute type; None when not asked.

    A 16-bit model has no other to be compared with. The caller holds both models in memory.
    """
    if not (cfg.reference and cfg.perplexity_file) or dtype.name in FULL_PRECISION:
        return None
    say(f"loading {model.name} as bf16, to compare with")
    return load_base(model, replace(dtype, name="bf16", backend="none"), dq=False).model
