"""Which of a model's layers are linear ones of its base, and which weights are quantized.

bitsandbytes' linear layers: made empty in the size of a plain one, and what a live one holds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.config.schema import BNB_BLOCKSIZES, BNB_DTYPES
from qlora_repro.errors import ConfigError, ModelError


def linear_layers(model: nn.Module) -> list[str]:
    """Return the names of the base model's linear layers, quantized or not, in the model's order.

    Language-model and classification heads, which lie outside of the base model or are its output
    embedding, are left out: they are neither quantized nor adapted.
    """
    base = getattr(model, "base_model", model)
    inside = {id(module) for module in base.modules()}
    head = output_embeddings(model)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside and module is not head
    ]


def quantizable(model: nn.Module, *, skip: Iterable[str] = ()) -> list[str]:
    """Return the names of the linear layers to quantize, in the model's order.

    These are all `linear_layers` but those that share their weight with another module, which stay
    16-bit as in the paper, and the modules named in `skip`. Nothing else is left out, unlike
    transformers' own choice, which keeps every `wo` of T5 and quantizes half of RoBERTa's
    classification head.

    Raises ModelError for a kind of linear layer that cannot be quantized, and when there is none.
    """
    kept = _tied(model) | set(skip)
    names = [name for name in linear_layers(model) if name not in kept]
    for name in names:
        module = model.get_submodule(name)
        if type(module) not in (nn.Linear, Conv1D):
            raise ModelError(
                f"{name} is a {type(module).__name__}, and only nn.Linear is quantized"
            )
    if not names:
        raise ModelError(f"{type(model).__name__} has no linear layer to quantize")
    return names


def expert_weights(model: nn.Module) -> list[str]:
    """Return the names of the weights that hold all experts of a layer: (experts, out, in).

    transformers keeps a mixture's experts as 3-D parameters, not as linear layers, on modules that
    declare by `is_transposed` whether each expert's matrix is (in, out) instead.
    """
    return [
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if hasattr(module, "is_transposed")
        for leaf, weight in module.named_parameters(recurse=False)
        if weight.dim() == 3
    ]


def output_embeddings(model: nn.Module) -> nn.Module | None:
    """Return a language model's head; None for a model without one."""
    find = getattr(model, "get_output_embeddings", None)
    return find() if find else None


def _tied(model: nn.Module) -> set[str]:
    """Return the modules that share their weight, under whichever name the model lists it."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    return {key.removesuffix(".weight") for key in (*tied.keys(), *tied.values())}


OUTLIERS = 6.0  # LLM.int8(): activation columns with anything beyond this stay 16-bit


@dataclass(frozen=True)
class Layout:
    """How bitsandbytes is to hold a weight."""

    dtype: str  # nf4, fp4 or int8
    blocksize: int  # nf4 and fp4 only: int8 has one scale a row
    dq: bool
    compute_dtype: torch.dtype
    storage: torch.dtype = torch.uint8  # what packed 4-bit codes are viewed as

    def __post_init__(self) -> None:
        if self.dtype not in BNB_DTYPES:
            held = ", ".join(BNB_DTYPES)
            raise ConfigError(f"dtype is {self.dtype}, and bitsandbytes holds {held} only")
        if self.four_bit and self.blocksize not in BNB_BLOCKSIZES:
            sizes = ", ".join(map(str, BNB_BLOCKSIZES))
            raise ConfigError(f"blocksize is {self.blocksize}, and bitsandbytes has {sizes}")

    @property
    def four_bit(self) -> bool:
        """Return whether a Linear4bit holds it, not a Linear8bitLt."""
        return self.dtype in ("nf4", "fp4")


def shell_of(module: Any, layout: Layout, *, storage: torch.dtype) -> Any:
    """Return bitsandbytes' layer of a linear layer's size, without storage."""
    conv = isinstance(module, Conv1D)
    n_in, n_out = module.weight.shape if conv else module.weight.shape[::-1]
    shell: Any
    with torch.device("meta"):
        if layout.four_bit:
            shell = Linear4bit(
                n_in,
                n_out,
                module.bias is not None,
                layout.compute_dtype,
                compress_statistics=layout.dq,
                quant_type=layout.dtype,
                quant_storage=storage,
            )
            shell.weight.blocksize = layout.blocksize  # not an argument of Linear4bit
        else:
            bias = module.bias is not None
            shell = Linear8bitLt(n_in, n_out, bias, has_fp16_weights=False, threshold=OUTLIERS)
    shell.source_cls = type(module)  # transformers transposes a streamed Conv1D weight by it
    return shell.requires_grad_(False)


def storage_of(model: nn.Module, name: str, layout: Layout) -> torch.dtype:
    """Return the torch dtype that packed codes are viewed as: the layout's, but for T5's `wo`.

    T5 casts its activations to `wo.weight.dtype` unless that is int8, and uint8 activations are
    garbage. transformers leaves `wo` unquantized for it; viewed as compute_dtype the same bytes do
    no harm.
    """
    touchy = getattr(model, "_keep_in_fp32_modules", None) or ()
    return layout.compute_dtype if name.rpartition(".")[2] in touchy else layout.storage


def row_scales(module: nn.Module) -> Tensor:
    """Return a Linear8bitLt's absmax per row: (out,) float32."""
    layer: Any = module
    # the first forward pass moves it from the weight to the module's state
    scales: Tensor = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    return scales


def quantized(module: nn.Module) -> bool:
    """Return whether a bitsandbytes layer holds codes; one that never saw a weight does not."""
    weight: Any = module.weight
    if isinstance(module, Linear4bit):
        return getattr(weight, "quant_state", None) is not None
    return bool(weight.dtype == torch.int8)


def refuse_misread(model: nn.Module) -> None:
    """Raise ModelError for a 4-bit layer that bitsandbytes reads wrongly on this machine.

    On a CPU with AVX-512, bitsandbytes 0.50 takes the wrong constants for rows that do not divide
    into blocks: in blocks of 128 a row of 576 reads wrong by up to half of its largest weight, and
    nothing says so.
    """
    for name, module in model.named_modules():
        if not isinstance(module, Linear4bit):
            continue
        weight: Any = module.weight
        state = weight.quant_state
        columns, device = state.shape[-1], weight.device.type
        if reads_back(columns, state.quant_type, state.blocksize, state.dtype, device):
            continue
        fitting = " or ".join(str(size) for size in BNB_BLOCKSIZES if columns % size == 0)
        smaller = f"dtype.blocksize={fitting}, or " if fitting else ""
        raise ModelError(
            f"bitsandbytes misreads {name} on this machine: its rows of {columns} weights do not "
            f"divide into blocks of {state.blocksize}; use {smaller}dtype.backend=simulated"
        )


@cache
def reads_back(columns: int, name: str, blocksize: int, dtype: torch.dtype, device: str) -> bool:
    """Return whether rows of so many weights come back from bitsandbytes as they went in.

    Every weight of the probe is plus or minus its block's absmax, a power of two: codes that stand
    for -1 and 1 give it back exactly, in any torch dtype and on any device.
    """
    rows = 1 + -(-4 * blocksize // columns)
    place = torch.arange(rows * columns)
    sizes = torch.exp2(-(place // blocksize % 7).float())
    weight = (sizes * (1 - 2 * (place % 2))).view(rows, columns).to(device, dtype)
    packed, state = quantize_4bit(weight, blocksize=blocksize, quant_type=name)
    with torch.compiler.set_stance("force_eager"):  # some shapes take a path that would compile
        return torch.equal(dequantize_4bit(packed, state), weight)
