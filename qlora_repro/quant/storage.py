"""Bits per parameter, read off the live model: what is stored, not what was asked for."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.errors import ModelError
from qlora_repro.quant.codebooks import codebook
from qlora_repro.quant.fake_quant import SimulatedState
from qlora_repro.quant.linear_layers import output_embeddings, quantized, row_scales

SINGLE = "float32"  # constants as they are computed
EXPERTS = "simulated_experts"  # a weight of all experts of a layer


@dataclass(frozen=True)
class Layer:
    """One quantized weight, as found."""

    kind: str  # Linear4bit, Linear8bitLt, simulated or EXPERTS
    dtype: str  # nf4, fp4, int8, ...
    params: int
    code_bytes: int
    scale_bytes: int  # absmax, and what double quantization adds
    tables: tuple[Tensor, ...]  # lookup tables, which layers may share
    blocksize: int | None  # None: one scale a row
    nested: bool
    scales: str  # what the constants are kept in: "float32", or the 8-bit type of nested ones


@dataclass(frozen=True)
class Kept:
    """Parameters that are not quantized, of one role and dtype."""

    role: str  # embedding, norm, linear, bias, adapter or other
    dtype: str  # "bfloat16"
    params: int


@dataclass(frozen=True)
class Storage:
    """What a model's weights take. A simulated model's memory holds 16-bit weights beside these."""

    modules: dict[str, int]  # how many quantized layers, by kind
    dtypes: tuple[str, ...]
    blocksizes: tuple[int | None, ...]
    nested_modules: int
    scales: tuple[str, ...]  # types of the constants
    params: int  # quantized ones
    code_bytes: int
    scale_bytes: int
    table_bytes: int  # not part of the bits per parameter
    simulated: bool
    kept: tuple[Kept, ...]

    @property
    def bits_per_param(self) -> float | None:
        """Return bits of codes and scales per quantized parameter; None if nothing is quantized."""
        return 8 * (self.code_bytes + self.scale_bytes) / self.params if self.params else None

    @property
    def nested(self) -> bool:
        """Return whether every quantized layer has double-quantized constants."""
        return bool(self.params) and self.nested_modules == sum(self.modules.values())


def storage(model: nn.Module) -> Storage:
    """Measure a model, wrapped by peft or not.

    Raises ModelError for a layer that should be quantized and holds no codes.
    """
    layers = [
        layer for name, module in model.named_modules() for layer in _layers(name, module).values()
    ]
    tables = {table.data_ptr(): table for layer in layers for table in layer.tables}
    return Storage(
        modules=dict(Counter(layer.kind for layer in layers)),
        dtypes=tuple(sorted({layer.dtype for layer in layers})),
        blocksizes=tuple(sorted({layer.blocksize for layer in layers}, key=lambda b: b or 0)),
        nested_modules=sum(layer.nested for layer in layers),
        scales=tuple(sorted({layer.scales for layer in layers})),
        params=sum(layer.params for layer in layers),
        code_bytes=sum(layer.code_bytes for layer in layers),
        scale_bytes=sum(layer.scale_bytes for layer in layers),
        table_bytes=sum(table.nbytes for table in tables.values()),
        simulated=any(layer.kind in ("simulated", EXPERTS) for layer in layers),
        kept=_kept(model),
    )


def unquantized_weights(model: nn.Module) -> dict[str, int]:
    """Return how many parameters each weight of the base has that could be in codes and is not.

    Embeddings, heads, vectors and adapters do not count: these stay 16-bit. What is left beside the
    quantized ones should be little, such as the routers of a mixture of experts.
    """
    wrapped: Any = model
    inner = wrapped.get_base_model() if hasattr(model, "get_base_model") else model
    base: nn.Module = getattr(inner, "base_model", inner)
    inside = {id(module) for module in base.modules()}
    head = output_embeddings(inner)
    left = {}
    for name, module in inner.named_modules():
        if id(module) not in inside or module is head or isinstance(module, nn.Embedding):
            continue
        quantized = _layers(name, module)
        for leaf, weight in module.named_parameters(recurse=False):
            full = f"{name}.{leaf}"
            if weight.dim() > 1 and leaf not in quantized and "lora_" not in full:
                left[full] = weight.numel()
    return left


def _layers(name: str, module: nn.Module) -> dict[str, Layer]:
    """Return the quantized weights of a module, by the names of its parameters."""
    # vars(): peft's wrapper hands on its base layer's attributes and would be counted as well
    experts: dict[str, SimulatedState] = vars(module).get(EXPERTS, {})
    layers = {leaf: replace(_simulated(state), kind=EXPERTS) for leaf, state in experts.items()}
    layer = _layer(name, module)
    return layers | ({"weight": layer} if layer else {})


def _layer(name: str, module: nn.Module) -> Layer | None:
    if isinstance(module, Linear4bit | Linear8bitLt):
        if not quantized(module):
            kind = type(module).__name__
            raise ModelError(f"{name} is a {kind} without codes: its weight was never quantized")
        return _linear4bit(module) if isinstance(module, Linear4bit) else _linear8bit(module)
    state = vars(module).get("simulated")
    return _simulated(state) if isinstance(state, SimulatedState) else None


def _linear4bit(module: Any) -> Layer:
    state = module.weight.quant_state
    constants, tables = [state.absmax], [state.code]
    if state.nested:
        constants += [state.state2.absmax, state.offset]
        tables += [state.state2.code]
    return Layer(
        kind="Linear4bit",
        dtype=state.quant_type,
        params=state.shape.numel(),
        code_bytes=module.weight.data.nbytes,
        scale_bytes=sum(constant.nbytes for constant in constants),
        tables=tuple(tables),
        blocksize=state.blocksize,
        nested=state.nested,
        scales=_scales(state.state2.code) if state.nested else SINGLE,
    )


def _linear8bit(module: Any) -> Layer:
    return Layer(
        kind="Linear8bitLt",
        dtype="int8",
        params=module.weight.numel(),
        code_bytes=module.weight.data.nbytes,
        scale_bytes=row_scales(module).nbytes,
        tables=(),
        blocksize=None,
        nested=False,
        scales=SINGLE,
    )


def _simulated(state: SimulatedState) -> Layer:
    return Layer(
        kind="simulated",
        dtype=state.dtype,
        params=state.n_codes,
        code_bytes=state.code_bytes,
        scale_bytes=state.scale_bytes,
        tables=(),
        blocksize=state.blocksize,
        nested=state.dq,
        scales=state.scales if state.dq else SINGLE,
    )


def _scales(table: Tensor) -> str:
    """Return the name of the 8-bit type whose levels a layer's second-level table has."""
    known = codebook("dynamic8")
    return "dynamic8" if torch.equal(table.cpu(), known) else "unknown"


def _kept(model: nn.Module) -> tuple[Kept, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[int] = set()  # a tied weight counts once
    for name, module in model.named_modules():
        quantized = _layers(name, module)
        for leaf, param in module.named_parameters(recurse=False):
            if leaf not in quantized and id(param) not in seen:
                role = _role(f"{name}.{leaf}", module)
                counts[role, str(param.dtype).removeprefix("torch.")] += param.numel()
            seen.add(id(param))
    return tuple(Kept(*key, params) for key, params in sorted(counts.items()))


def _role(name: str, module: nn.Module) -> str:
    roles = (
        ("lora_" in name, "adapter"),
        (isinstance(module, nn.Embedding), "embedding"),
        ("norm" in type(module).__name__.lower(), "norm"),
        (name.endswith(".bias"), "bias"),
        (isinstance(module, nn.Linear | Conv1D), "linear"),
    )
    return next((role for found, role in roles if found), "other")
