"""Linear layers that bitsandbytes holds: while a checkpoint streams in, or in a built model.

`StreamingConfig` has from_pretrained quantize each weight as it is read; `quantize_in_place` does
it to a model in memory. Both choose layers by `find_quantizable_layers`, unlike transformers.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant, quantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

from qlora_repro.config.registry import BNB_BLOCKSIZES, BNB_DTYPES
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.quant.finite import find_not_finite, refuse_not_finite
from qlora_repro.quant.linear_layers import find_expert_weights, find_quantizable_layers

OUTLIER_THRESHOLD = 6.0  # LLM.int8(): activation columns with anything beyond this stay 16-bit


@dataclass(frozen=True)
class BnbFormat:
    """How bitsandbytes is to hold a weight.

    Raises:
        ConfigError: bitsandbytes lacks the type or the block size.
    """

    dtype: str  # nf4, fp4 or int8
    blocksize: int  # nf4 and fp4 only: int8 has one scale a row
    dq: bool
    compute_dtype: torch.dtype
    storage: torch.dtype = torch.uint8  # what packed 4-bit codes are viewed as

    def __post_init__(self) -> None:
        if self.dtype not in BNB_DTYPES:
            dtypes = ", ".join(BNB_DTYPES)
            raise ConfigError(f"dtype is {self.dtype}, and bitsandbytes holds {dtypes} only")
        if self.four_bit and self.blocksize not in BNB_BLOCKSIZES:
            sizes = ", ".join(map(str, BNB_BLOCKSIZES))
            raise ConfigError(f"blocksize is {self.blocksize}, and bitsandbytes has {sizes}")

    @property
    def four_bit(self) -> bool:
        """Whether a Linear4bit holds it, not a Linear8bitLt."""
        return self.dtype in ("nf4", "fp4")


class StreamingConfig(BitsAndBytesConfig):
    """A `quantization_config` for from_pretrained: each weight is quantized as it is read.

    It covers nf4 and fp4 at any block size that bitsandbytes has, and LLM.int8(). One weight at a
    time is in 16 bits. Pass `dtype=compute_dtype` to from_pretrained as well: the forward pass
    dequantizes to compute_dtype and the backward pass to the dtype that was loaded.

    Args:
        dtype: nf4, fp4 or int8.
        blocksize: weights that share a scale; unused by int8.
        dq: whether the scales are quantized as well.
        compute_dtype: what layers compute in.
        skip: modules, by their full names, that are not to be quantized.
        storage: what packed 4-bit codes are viewed as.

    Raises:
        ConfigError: bitsandbytes lacks the type or the block size. from_pretrained raises
            ModelError where the checkpoint has no weight for a module to be quantized.
    """

    def __init__(  # what a format is made of
        self,
        dtype: str,
        *,
        blocksize: int,
        dq: bool,
        compute_dtype: torch.dtype,
        skip: list[str] | None = None,
        storage: torch.dtype = torch.uint8,
    ) -> None:
        self.format = BnbFormat(dtype, blocksize, dq, compute_dtype, storage)
        four_bit = self.format.four_bit
        super().__init__(
            load_in_4bit=four_bit,
            load_in_8bit=not four_bit,
            llm_int8_skip_modules=skip,
            llm_int8_threshold=OUTLIER_THRESHOLD,
            bnb_4bit_quant_type=dtype if four_bit else "nf4",
            bnb_4bit_use_double_quant=dq,
            bnb_4bit_compute_dtype=compute_dtype,
        )
        self.quant_method: Any = "qlora_repro_4bit" if four_bit else "qlora_repro_8bit"

    def to_dict(self) -> dict[str, Any]:
        """Return what a saved model's config.json says, which stock transformers reads back."""
        settings: dict[str, Any] = super().to_dict()
        del settings["format"]  # a saved weight carries its own block size
        return settings | {"quant_method": QuantizationMethod.BITS_AND_BYTES}


def quantize_in_place(
    model: nn.Module,
    names: list[str],
    *,
    dtype: str,
    blocksize: int,
    dq: bool,
    compute_dtype: torch.dtype,
) -> None:
    """Replace the named linear layers of a built model, each quantized on the device it is on.

    Names come from `find_quantizable_layers`; dtypes and errors are as for `StreamingConfig`.
    """
    fmt = BnbFormat(dtype, blocksize, dq, compute_dtype)
    _refuse_experts(model)
    for name in names:
        module: Any = model.get_submodule(name)
        if type(module) not in (nn.Linear, Conv1D):
            raise ModelError(
                f"{name} is a {type(module).__name__}, and only nn.Linear is quantized"
            )
        layer = _make_empty_layer(model, name, fmt)
        weight = module.weight.data
        rows = weight.T if isinstance(module, Conv1D) else weight  # (out, in)
        packed = type(layer.weight)(rows, requires_grad=False, **vars(layer.weight))
        layer.weight = packed.to(weight.device)
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.data, requires_grad=False)
        model.set_submodule(name, layer.train(module.training))
    _mark_quantized(model, fmt)
    check_readback(model)


def insert_empty_layers(model: PreTrainedModel, config: StreamingConfig) -> None:
    """Put bitsandbytes' layers, still empty, into a model on the meta device, for later weights."""
    _replace_layers(model, config)
    _mark_quantized(model, config.format)


def disable_cpu_repacking(model: nn.Module) -> int:
    """Keep Linear4bit from repacking its weights in an eval pass; return how many there are.

    On a CPU with AVX512-BF16 bitsandbytes rewrites a weight in place, its scales rounded to bf16,
    the first time it is used without gradients: training after an eval would differ. Both ways of
    quantizing above have done this already.
    """
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


@torch.no_grad()
def dequantize_weight(module: nn.Module) -> Tensor:
    """Return the weight a linear layer computes with: (out, in), for a Conv1D too.

    float32 for Linear8bitLt, otherwise the dtype that was loaded. A simulated layer's weight is
    that already.

    Raises:
        ModelError: it is no linear layer.
    """
    layer: Any = module
    weight: Tensor
    if isinstance(module, Linear4bit):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    elif isinstance(module, Linear8bitLt):
        weight = int8_vectorwise_dequant(layer.weight.data, int8_row_scales(module))
    elif isinstance(module, nn.Linear | Conv1D):
        weight = layer.weight.detach()
        weight = weight.T if isinstance(module, Conv1D) else weight
    else:
        raise ModelError(f"a {type(module).__name__} has no linear layer's weight to dequantize")
    return weight


def int8_row_scales(module: nn.Module) -> Tensor:
    """Return a Linear8bitLt's absmax per row: (out,) float32."""
    layer: Any = module
    # the first forward pass moves it from the weight to the module's state
    scales: Tensor = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    return scales


def holds_codes(module: nn.Module) -> bool:
    """Whether a bitsandbytes layer holds codes; one that never saw a weight does not."""
    weight: Any = module.weight
    if isinstance(module, Linear4bit):
        return getattr(weight, "quant_state", None) is not None
    return bool(weight.dtype == torch.int8)


def check_readback(model: nn.Module) -> None:
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
        if reads_back_exactly(columns, state.quant_type, state.blocksize, state.dtype, device):
            continue
        fitting = " or ".join(str(size) for size in BNB_BLOCKSIZES if columns % size == 0)
        smaller = f"dtype.blocksize={fitting}, or " if fitting else ""
        raise ModelError(
            f"bitsandbytes misreads {name} on this machine: its rows of {columns} weights do not "
            f"divide into blocks of {state.blocksize}; use {smaller}dtype.backend=simulated"
        )


@cache
def reads_back_exactly(
    columns: int, name: str, blocksize: int, dtype: torch.dtype, device: str
) -> bool:
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


def _make_empty_layer(model: nn.Module, name: str, fmt: BnbFormat) -> Any:
    """Return bitsandbytes' layer of a linear layer's size, without storage."""
    module: Any = model.get_submodule(name)
    conv, bias = isinstance(module, Conv1D), module.bias is not None
    n_in, n_out = module.weight.shape if conv else module.weight.shape[::-1]
    layer: Any
    with torch.device("meta"):
        if fmt.four_bit:
            layer = Linear4bit(
                n_in,
                n_out,
                bias,
                fmt.compute_dtype,
                compress_statistics=fmt.dq,
                quant_type=fmt.dtype,
                quant_storage=_choose_code_dtype(model, name, fmt),
            )
            layer.weight.blocksize = fmt.blocksize  # not an argument of Linear4bit
        else:
            layer = Linear8bitLt(
                n_in, n_out, bias, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD
            )
    layer.source_cls = type(module)  # transformers transposes a streamed Conv1D weight by it
    return layer.requires_grad_(False)


def _choose_code_dtype(model: nn.Module, name: str, fmt: BnbFormat) -> torch.dtype:
    """Return the torch dtype that packed codes are viewed as: the format's, but for T5's `wo`.

    T5 casts its activations to `wo.weight.dtype` unless that is int8, and uint8 activations are
    garbage. transformers leaves `wo` unquantized for it; viewed as compute_dtype the same bytes do
    no harm.
    """
    cast_to = getattr(model, "_keep_in_fp32_modules", None) or ()
    return fmt.compute_dtype if name.rpartition(".")[2] in cast_to else fmt.storage


def _refuse_experts(model: nn.Module) -> None:
    """Refuse experts that are one 3-D weight a layer, which bitsandbytes leaves in 16 bits."""
    if experts := find_expert_weights(model):
        size = sum(model.get_parameter(name).numel() for name in experts)
        share = size / sum(weight.numel() for weight in model.parameters())
        raise ModelError(
            f"{experts[0]} holds all experts of its layer in one weight, which bitsandbytes does "
            f"not quantize: {share:.0%} of the model would stay in 16 bits; use "
            "dtype.backend=simulated"
        )


def _mark_quantized(model: nn.Module, fmt: BnbFormat) -> None:
    """Tell peft which layers to look for, and the Trainer not to move or cast the model."""
    marked: Any = model
    marked.quantization_method = QuantizationMethod.BITS_AND_BYTES
    setattr(marked, "is_loaded_in_4bit" if fmt.four_bit else "is_loaded_in_8bit", True)
    disable_cpu_repacking(model)


def _replace_layers(model: PreTrainedModel, config: StreamingConfig) -> None:
    """Replace what is to be quantized; all of it is on the meta device."""
    _refuse_experts(model)
    for name in find_quantizable_layers(model, skip=config.llm_int8_skip_modules or ()):
        model.set_submodule(name, _make_empty_layer(model, name, config.format))


class _StreamingQuantizer:
    """What replaces transformers' own choice of layers in its two quantizers for bitsandbytes."""

    quantization_config: Any

    def get_quantize_ops(self) -> Any:
        """Return what quantizes a weight, and notes one that is not finite or of another shape."""
        operation = super().get_quantize_ops()  # type: ignore[misc]  # of the class beside it
        quantize = operation.convert
        self.not_finite: list[str] = []
        self.misshapen: list[str] = []

        def convert(weights: dict[str, Any], **options: Any) -> Any:
            for name, value in weights.items():
                tensor = value[0] if isinstance(value, list) else value
                layer: Any = options["model"].get_submodule(name.rpartition(".")[0])
                conv, shape = issubclass(layer.source_cls, Conv1D), layer.weight.shape
                self.not_finite += find_not_finite([(name, tensor)])
                self.misshapen += [name] * (tensor.shape != (shape[::-1] if conv else shape))
            return quantize(weights, **options)

        operation.convert = convert
        return operation

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, device_map: object = None, **_: object
    ) -> None:
        _replace_layers(model, self.quantization_config)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **_: object
    ) -> PreTrainedModel:
        if self.misshapen:
            raise ModelError(
                f"{model.name_or_path} has {self.misshapen[0]} in another shape than config.json "
                "calls for; a whole checkpoint is needed"
            )
        refuse_not_finite(str(model.name_or_path), self.not_finite)
        for name, module in model.named_modules():
            if isinstance(module, Linear4bit | Linear8bitLt) and not holds_codes(module):
                raise ModelError(
                    f"the checkpoint has no weight for {name}, which is to be quantized"
                )
        _mark_quantized(model, self.quantization_config.format)
        check_readback(model)
        return model


@register_quantizer("qlora_repro_4bit")
class _Streaming4bit(_StreamingQuantizer, Bnb4BitHfQuantizer): ...


@register_quantizer("qlora_repro_8bit")
class _Streaming8bit(_StreamingQuantizer, Bnb8BitHfQuantizer): ...
