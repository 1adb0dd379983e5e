"""The linear weights of a base model, as they would be quantized, with their place in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from qlora_repro.lora.targets import layer_number, role_of
from qlora_repro.quant.linear_layers import quantizable


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One linear layer's weight: O outputs (hidden units), I inputs."""

    name: str
    layer: int | None
    role: str  # "other" where the family gives none
    values: Tensor  # (O, I)

    def numpy(self) -> NDArray[np.float64]:
        """Return a copy for scipy: (O, I) float64."""
        return self.values.detach().cpu().double().numpy()


def weights(model: Any) -> Iterator[Weight]:
    """Yield what `quant` would quantize, in the model's order; a Conv1D as (out, in)."""
    for name in quantizable(model):
        module = model.get_submodule(name)
        yield Weight(
            name=name,
            layer=layer_number(name),
            role=role_of(model.config.model_type, name) or "other",
            values=module.weight.T if isinstance(module, Conv1D) else module.weight,
        )
