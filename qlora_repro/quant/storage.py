"""Bits per parameter, read off the live model: what is stored, not what was asked for."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qlora_repro.config.schema import DtypeConfig
from qlora_repro.errors import ModelError
from qlora_repro.quant.bitsandbytes import holds_codes, int8_row_scales
from qlora_repro.quant.codebooks import make_codebook
from qlora_repro.quant.linear_layers import find_output_head
from qlora_repro.records import BaseWeights

FLOAT32 = "float32"  # constants as they are computed


class LayerKind(StrEnum):
    """What holds a quantized weight."""

    LINEAR4BIT = "Linear4bit"
    LINEAR8BIT = "Linear8bitLt"
    SIMULATED = "simulated"
    EXPERTS = "simulated_experts"  # a weight of all experts of a layer


@dataclass(frozen=True, kw_only=True)
class QuantizedLayer:
    """What one quantized weight takes. A simulated one takes 16 bits a weight in memory."""

    kind: LayerKind
    dtype: str  # nf4, fp4, int8, ...
    params: int
    code_bytes: int
    scale_bytes: int  # absmax, and what double quantization adds
    tables: tuple[Tensor, ...] = ()  # lookup tables, which layers may share
    blocksize: int | None  # None: one scale a row
    nested: bool
    scales: str = FLOAT32  # what constants are kept in, the 8-bit type of nested ones otherwise


def measure_storage(model: nn.Module) -> BaseWeights:
    """Measure what the weights of a model take, wrapped by peft or not.

    Of a simulated model the codes that it would hold count, beside which it holds 16-bit weights.
    Raises ModelError for a layer that should be quantized and holds no codes.
    """
    layers = [
        layer
        for name, module in model.named_modules()
        for layer in _quantized_params(name, module).values()
    ]
    tables = {table.data_ptr(): table for layer in layers for table in layer.tables}
    params = sum(layer.params for layer in layers)
    code_bytes = sum(layer.code_bytes for layer in layers)
    scale_bytes = sum(layer.scale_bytes for layer in layers)
    unquantized = _count_unquantized(model)
    return BaseWeights(
        modules=len(layers),
        kinds=dict(Counter(str(layer.kind) for layer in layers)),
        dtypes=sorted({layer.dtype for layer in layers}),
        blocksizes=sorted({layer.blocksize for layer in layers}, key=lambda size: size or 0),
        double_quantized=sum(layer.nested for layer in layers),
        scales=sorted({layer.scales for layer in layers}),
        parameters=params,
        all_parameters=params + sum(p["params"] for p in unquantized if p["role"] != "adapter"),
        bits_per_parameter=8 * (code_bytes + scale_bytes) / params if params else None,
        code_bytes=code_bytes,
        scale_bytes=scale_bytes,
        table_bytes=sum(table.nbytes for table in tables.values()),
        simulated=any(layer.kind in (LayerKind.SIMULATED, LayerKind.EXPERTS) for layer in layers),
        kept=unquantized,
        quantized_share=params / (params + sum(find_unquantized_weights(model).values())),
    )


def find_unquantized_weights(model: nn.Module) -> dict[str, int]:
    """Return how many parameters each weight of the base has that could be in codes and is not.

    Embeddings, heads, vectors and adapters do not count: these stay 16-bit. There should be
    few beside the quantized ones, such as the routers of a mixture of experts.
    """
    wrapped: Any = model
    inner = wrapped.get_base_model() if hasattr(model, "get_base_model") else model
    base: nn.Module = getattr(inner, "base_model", inner)
    inside = {id(module) for module in base.modules()}
    head = find_output_head(inner)
    unquantized = {}
    for name, module in inner.named_modules():
        if id(module) not in inside or module is head or isinstance(module, nn.Embedding):
            continue
        quantized = _quantized_params(name, module)
        for leaf, weight in module.named_parameters(recurse=False):
            full = f"{name}.{leaf}"
            if weight.dim() > 1 and leaf not in quantized and "lora_" not in full:
                unquantized[full] = weight.numel()
    return unquantized


def check_quantized(model: nn.Module, names: list[str], *, dtype: DtypeConfig, dq: bool) -> None:
    """Compare the live layers with what was asked for.

    Raises:
        ModelError: a layer is held in another type or block size; it names the first.
    """
    wanted: tuple[str, int | None, bool] = (dtype.data_type, dtype.blocksize, dq)
    if dtype.name == "int8" and dtype.backend == "bnb":
        wanted = ("int8", None, False)  # one scale a row
    for name in names:
        module = model.get_submodule(name)
        layer = _quantized_params(name, module).get("weight")
        stored = None if layer is None else (layer.dtype, layer.blocksize, layer.nested)
        if stored != wanted:
            raise ModelError(
                f"{name} was to be held as {wanted} (type, block size, double quantization) and is "
                f"{stored or type(module).__name__}"
            )


def _quantized_params(name: str, module: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the quantized weights of a module, by the names of its parameters."""
    if not isinstance(module, Linear4bit | Linear8bitLt):
        # vars(): peft's wrapper hands on its base layer's attributes and would be counted as well
        simulated: dict[str, QuantizedLayer] = vars(module).get("simulated", {})
        return simulated
    if not holds_codes(module):
        kind = type(module).__name__
        raise ModelError(f"{name} is a {kind} without codes: its weight was never quantized")
    return {"weight": _read_4bit(module) if isinstance(module, Linear4bit) else _read_8bit(module)}


def _read_4bit(module: Any) -> QuantizedLayer:
    state = module.weight.quant_state
    constants, tables, scales = [state.absmax], [state.code], FLOAT32
    if state.nested:
        constants += [state.state2.absmax, state.offset]
        tables += [state.state2.code]
        dynamic = torch.equal(state.state2.code.cpu(), make_codebook("dynamic8"))
        scales = "dynamic8" if dynamic else "unknown"
    return QuantizedLayer(
        kind=LayerKind.LINEAR4BIT,
        dtype=state.quant_type,
        params=state.shape.numel(),
        code_bytes=module.weight.data.nbytes,
        scale_bytes=sum(constant.nbytes for constant in constants),
        tables=tuple(tables),
        blocksize=state.blocksize,
        nested=bool(state.nested),
        scales=scales,
    )


def _read_8bit(module: Any) -> QuantizedLayer:
    return QuantizedLayer(
        kind=LayerKind.LINEAR8BIT,
        dtype="int8",
        params=module.weight.numel(),
        code_bytes=module.weight.data.nbytes,
        scale_bytes=int8_row_scales(module).nbytes,
        blocksize=None,
        nested=False,
    )


def _count_unquantized(model: nn.Module) -> list[dict[str, Any]]:
    """Return how many parameters are not quantized, by role and dtype."""
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[int] = set()  # a tied weight counts once
    for name, module in model.named_modules():
        quantized = _quantized_params(name, module)
        for leaf, param in module.named_parameters(recurse=False):
            if leaf not in quantized and id(param) not in seen:
                role = _param_role(f"{name}.{leaf}", module)
                counts[role, str(param.dtype).removeprefix("torch.")] += param.numel()
            seen.add(id(param))
    return [
        {"role": role, "dtype": dtype, "params": params}
        for (role, dtype), params in sorted(counts.items())
    ]


def _param_role(name: str, module: nn.Module) -> str:
    roles = (
        ("lora_" in name, "adapter"),
        (isinstance(module, nn.Embedding), "embedding"),
        ("norm" in type(module).__name__.lower(), "norm"),
        (name.endswith(".bias"), "bias"),
        (isinstance(module, nn.Linear | Conv1D), "linear"),
    )
    return next((role for matches, role in roles if matches), "other")
