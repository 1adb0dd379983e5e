"""A LoRA layer as one function of autograd: the base product and the low-rank update together.

PEFT computes y = x W' + s (x A') B' as a chain of operations, each of which leaves a tensor for the
backward pass. Here the two products meet in one matrix multiplication, and the backward pass needs
the layer's input and x A' alone (Section 2 of the paper: gradients go through W, and to A and B).
Results are PEFT's up to rounding. The layers stay PEFT's own, and so do the adapters on disk: each
gets a forward function of its own and goes back to PEFT's where it would not fit.
"""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.quant.one_pass import dequantize_in_one_pass, fits_one_pass

Gradients = tuple[Tensor | None, ...]


class LoraProduct(torch.autograd.Function):
    """y = x W' + s (d A') B', where d is x, or x after dropout. N tokens, r the rank.

    W (out, in) is frozen and is dequantized in each of the two passes, so that it is never kept.
    """

    @staticmethod
    def forward(  # noqa: PLR0913  # the operands of one product
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        base: nn.Module,
    ) -> Tensor:
        """Return y (N, out) of x (N, in), its dropped copy (None: x itself), A (r, in), B (out, r).

        A and B are in the dtype of x.
        """
        read = x if dropped is None else dropped  # (N, in)
        low = read @ a.T  # (N, r)
        y = multiply_base(base, x)  # (N, out)
        y.addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(read, low, a, b)
        ctx.scaling, ctx.base, ctx.drops = scaling, base, dropped is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """Return the gradients of x, its dropped copy, A and B from that of y, (N, out)."""
        (g,) = gradients
        read, low, a, b = ctx.saved_tensors
        inner = (g @ b) * ctx.scaling  # (N, r)
        grad_a = inner.T @ read if ctx.needs_input_grad[2] else None  # (r, in)
        grad_b = (g.T @ low) * ctx.scaling if ctx.needs_input_grad[3] else None  # (out, r)
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = g @ dense_weight(ctx.base, g.dtype)  # (N, in)
            if not ctx.drops:
                grad_x.addmm_(inner, a)
        if ctx.drops and ctx.needs_input_grad[1]:
            grad_dropped = inner @ a  # (N, in)
        return grad_x, grad_dropped, grad_a, grad_b, None, None


def multiply_base(base: nn.Module, x: Tensor) -> Tensor:
    """Return x W' and its bias for x (N, in): (N, out)."""
    # for one row bitsandbytes has a kernel
    if isinstance(base, Linear4bit) and len(x) > 1 and fits_one_pass(*_packed_weight(base)):
        bias = None if base.bias is None else base.bias.to(x.dtype)
        return nn.functional.linear(x, dense_weight(base, x.dtype), bias)
    y: Tensor = base(x)
    return y


def dense_weight(base: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return the weight (out, in) of a plain or a 4-bit linear layer in `dtype`."""
    if isinstance(base, Linear4bit):
        packed, state = _packed_weight(base)
        dequantize = dequantize_in_one_pass if fits_one_pass(packed, state) else dequantize_4bit
        return dequantize(packed, state).to(dtype)
    weight: Any = base.weight
    return weight.to(dtype)  # type: ignore[no-any-return]


def _packed_weight(base: Any) -> tuple[Tensor, Any]:
    """Return a 4-bit layer's codes and what bitsandbytes needs to read them."""
    state = getattr(base.weight, "quant_state", None)  # which FSDP's own parameter does not have
    return base.weight.data, state or base.quant_state


class FusedForward:
    """The forward function of one LoRA layer, in place of PEFT's."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.peft_forward = layer.forward
        self.in_step = False  # weights stay as they are until the step is over
        self.cast: tuple[Tensor, Tensor] | None = None  # A and B as the passes of a step read them

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output (..., out) for an input (..., in)."""
        layer = self.layer
        if args or kwargs or not self.fits(x):
            result: Tensor = self.peft_forward(x, *args, **kwargs)
            return result
        name = layer.active_adapters[0]
        flat = x.reshape(-1, x.shape[-1])  # (N, in)
        dropout = layer.lora_dropout[name]
        drops = layer.training and not isinstance(dropout, nn.Identity)  # rows told apart in x
        a, b = self._adapter(name, x.dtype)
        y = LoraProduct.apply(
            flat,
            dropout(x).reshape(flat.shape) if drops else None,
            a,
            b,
            layer.scaling[name],
            layer.base_layer,
        )
        return y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]

    def fits(self, x: Tensor) -> bool:
        """Whether one plain adapter is at work on a layer that computes in the dtype of x."""
        layer, base = self.layer, self.layer.base_layer
        computes = base.compute_dtype if isinstance(base, Linear4bit) else base.weight.dtype
        return (
            not (layer.disable_adapters or layer.merged)
            and len(layer.active_adapters) == 1
            and layer.active_adapters[0] in layer.lora_A
            and computes == x.dtype
            and not torch.is_autocast_enabled(x.device.type)
        )

    def _adapter(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return A and B in the dtype of the pass, cast once for all micro-batches of a step."""
        a, b = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight
        if a.dtype == dtype:
            return a, b
        if not (self.in_step and torch.is_grad_enabled()):
            return a.to(dtype), b.to(dtype)
        if self.cast is None:
            self.cast = (a.to(dtype), b.to(dtype))
        return self.cast

    def begin_step(self) -> None:
        """Cast anew at the next pass, and not again until the step is over."""
        self.in_step, self.cast = True, None

    def end_step(self) -> None:
        """Drop what was cast: the weights change now."""
        self.in_step, self.cast = False, None


def find_fused_forwards(model: nn.Module) -> list[FusedForward]:
    """Return the forward functions of a model's fused layers."""
    forwards = (getattr(layer, "forward", None) for layer in model.modules())
    return [forward for forward in forwards if isinstance(forward, FusedForward)]


class CastAdaptersOnce(TrainerCallback):
    """Has the adapters of a model cast to the dtype of the passes once in each optimizer step."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards = find_fused_forwards(model)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a step."""
        for forward in self.forwards:
            forward.begin_step()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End it before the weights change."""
        for forward in self.forwards:
            forward.end_step()


def fuse_lora_layers(model: nn.Module) -> int:
    """Let the LoRA layers of a PEFT model compute in one function each; return how many do.

    A layer with dropout, a 4-bit or a plain base and one plain adapter qualifies. Layers of other
    kinds (8-bit ones, convolutions, adapters with a bias or of a variant) keep PEFT's forward.
    """
    count = 0
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and is_fusible(layer):
            lora: Any = layer
            if not isinstance(lora.forward, FusedForward):
                lora.forward = FusedForward(lora)
            count += 1
    return count


def is_fusible(layer: Any) -> bool:
    """Whether a LoRA layer is W x + s B A x and nothing else, on a base that is plain or 4-bit."""
    plain = type(layer.base_layer) is nn.Linear or isinstance(layer.base_layer, Linear4bit)
    odd = any(getattr(layer, name, None) for name in ("lora_variant", "lora_magnitude_vector"))
    biased = any(getattr(layer, "lora_bias", {}).values())
    return plain and bool(layer.lora_A) and not odd and not biased
