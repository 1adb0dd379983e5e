"""Weights that hold NaN or infinity: found by name, and refused before anything is computed."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qlora_repro.errors import ModelError


def is_finite(weight: Tensor) -> bool:
    """Whether every value is a finite number, in one pass and without a copy of the weight.

    True for bitsandbytes' codes, and for what is on the meta device.
    """
    if not weight.is_floating_point() or hasattr(weight, "quant_state"):
        return True
    if weight.is_meta or not weight.numel():
        return True
    return bool(torch.stack(torch.aminmax(weight.detach())).isfinite().all())  # both keep a NaN


def find_not_finite(weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of the weights that hold NaN or infinity."""
    return [name for name, weight in weights if not is_finite(weight)]


def refuse_not_finite(owner: str, names: list[str]) -> None:
    """Raise ModelError where `names`, the weights of `owner` that are not finite, has any."""
    if names:
        more = f" and {len(names) - 1} more weights" if len(names) > 1 else ""
        raise ModelError(
            f"{owner} has values that are not finite numbers (NaN or infinity) in {names[0]}{more}"
            "; no score of it would mean anything"
        )
