"""Liger's fused kernels for as long as a model trains, and no longer."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import nn

from qlora_repro.errors import ConfigError

LOSSES = {"fused_linear_cross_entropy": False, "cross_entropy": False}  # loss.py computes it


def check_kernels(kernels: str) -> None:
    """Refuse kernels that are not installed; raises ConfigError."""
    if kernels == "liger" and find_spec("liger_kernel") is None:
        raise ConfigError(
            "train.kernels=liger needs the package liger-kernel, which is not installed; run pip "
            "install -c constraints.txt -e '.[liger]', or use train.kernels=none"
        )


@contextmanager
def library_restored(model: nn.Module) -> Iterator[None]:
    """Undo what a body changes in the modules of transformers that a model's classes come from.

    Liger replaces functions and classes of transformers' own modules, for the model at hand and for
    every model after it: the next cell of a sweep would compute with them whatever its settings.
    """
    peft: Any = model
    inner = peft.get_base_model() if hasattr(model, "get_base_model") else model
    library = vars(sys.modules[type(inner).__module__])
    before = dict(library)
    try:
        yield
    finally:
        library.clear()
        library.update(before)
