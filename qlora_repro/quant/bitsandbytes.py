"""Linear layers held by bitsandbytes: as a checkpoint streams in, or in place in a built model."""

from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizer_bnb_8bit import Bnb8BitHfQuantizer
from transformers.utils.quantization_config import QuantizationMethod

from qlora_repro.errors import ModelError
from qlora_repro.quant.linear_layers import (
    OUTLIERS,
    Layout,
    expert_weights,
    quantizable,
    quantized,
    refuse_misread,
    row_scales,
    shell_of,
    storage_of,
)


class StreamedConfig(BitsAndBytesConfig):
    """A BitsAndBytesConfig with a block size, for quantizers that choose by `quantizable`."""

    def __init__(self, layout: Layout, skip: list[str] | None) -> None:
        four_bit = layout.four_bit
        super().__init__(
            load_in_4bit=four_bit,
            load_in_8bit=not four_bit,
            llm_int8_skip_modules=skip,
            llm_int8_threshold=OUTLIERS,
            bnb_4bit_quant_type=layout.dtype if four_bit else "nf4",
            bnb_4bit_use_double_quant=layout.dq,
            bnb_4bit_compute_dtype=layout.compute_dtype,
        )
        self.layout = layout
        self.quant_method: Any = "qlora_repro_4bit" if four_bit else "qlora_repro_8bit"

    def to_dict(self) -> dict[str, Any]:
        """Return what a saved model's config.json says, which stock transformers reads back."""
        said: dict[str, Any] = super().to_dict()
        del said["layout"]  # a saved weight carries its own block size
        return said | {"quant_method": QuantizationMethod.BITS_AND_BYTES}


def quantization_config(
    dtype: str,
    *,
    blocksize: int,
    dq: bool,
    compute_dtype: torch.dtype,
    skip: list[str] | None = None,
    storage: torch.dtype = torch.uint8,
) -> BitsAndBytesConfig:
    """Return a `quantization_config` for from_pretrained: each weight is quantized as it is read.

    nf4 and fp4 at any block size that bitsandbytes has, and LLM.int8(). One weight at a time is in
    16 bits. Pass `dtype=compute_dtype` to from_pretrained as well: the forward pass dequantizes to
    compute_dtype and the backward pass to the dtype that was loaded. `skip` names modules, in full,
    to leave out of what `quantizable` chooses. `storage` is what 4-bit codes are viewed as.

    Raises ConfigError for a dtype or block size that bitsandbytes lacks; from_pretrained raises
    ModelError when the checkpoint has no weight for a module that is to be quantized.
    """
    return StreamedConfig(Layout(dtype, blocksize, dq, compute_dtype, storage), skip)


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

    Names, errors and dtypes are as for `quantization_config`; names come from `quantizable`.
    """
    layout = Layout(dtype, blocksize, dq, compute_dtype)
    _refuse_experts(model)
    for name in names:
        module: Any = model.get_submodule(name)
        if type(module) not in (nn.Linear, Conv1D):
            raise ModelError(
                f"{name} is a {type(module).__name__}, and only nn.Linear is quantized"
            )
        weight = module.weight.data
        shell = shell_of(module, layout, storage=storage_of(model, name, layout))
        rows = weight.T if isinstance(module, Conv1D) else weight  # (out, in)
        packed = type(shell.weight)(rows, requires_grad=False, **vars(shell.weight))
        shell.weight = packed.to(weight.device)
        if module.bias is not None:
            shell.bias = nn.Parameter(module.bias.data, requires_grad=False)
        model.set_submodule(name, shell.train(module.training))
    _declare(model, layout)


def disarm(model: nn.Module) -> int:
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
def dequantized_weight(module: nn.Module) -> Tensor:
    """Return the weight a linear layer computes with: (out, in), for a Conv1D too.

    float32 for Linear8bitLt, otherwise the dtype that was loaded. A simulated layer's weight is
    that already. Raises ModelError for anything but a linear layer.
    """
    layer: Any = module
    weight: Tensor
    if isinstance(module, Linear4bit):
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    elif isinstance(module, Linear8bitLt):
        weight = int8_vectorwise_dequant(layer.weight.data, row_scales(module))
    elif isinstance(module, nn.Linear | Conv1D):
        weight = layer.weight.detach()
        weight = weight.T if isinstance(module, Conv1D) else weight
    else:
        raise ModelError(f"a {type(module).__name__} has no linear layer's weight to dequantize")
    return weight


def place_shells(model: PreTrainedModel, config: Any) -> None:
    """Put bitsandbytes' layers, still empty, into a model on the meta device, for later weights.

    `config` is what `quantization_config` returns.
    """
    _before_loading(model, config)
    _mark(model, config.layout)


def _refuse_experts(model: nn.Module) -> None:
    """Refuse experts that are one 3-D weight a layer, which bitsandbytes leaves in 16 bits."""
    if experts := expert_weights(model):
        size = sum(model.get_parameter(name).numel() for name in experts)
        share = size / sum(weight.numel() for weight in model.parameters())
        raise ModelError(
            f"{experts[0]} holds all experts of its layer in one weight, which bitsandbytes does "
            f"not quantize: {share:.0%} of the model would stay in 16 bits; use "
            "dtype.backend=simulated"
        )


def _declare(model: nn.Module, layout: Layout) -> None:
    _mark(model, layout)
    refuse_misread(model)


def _mark(model: nn.Module, layout: Layout) -> None:
    """Tell peft which layers to look for, and the Trainer not to move or cast the model."""
    marked: Any = model
    marked.quantization_method = QuantizationMethod.BITS_AND_BYTES
    setattr(marked, "is_loaded_in_4bit" if layout.four_bit else "is_loaded_in_8bit", True)
    disarm(model)


def _before_loading(model: PreTrainedModel, config: Any) -> None:
    """Replace what is to be quantized; all of it is on the meta device."""
    _refuse_experts(model)
    for name in quantizable(model, skip=config.llm_int8_skip_modules or ()):
        storage = storage_of(model, name, config.layout)
        shell = shell_of(model.get_submodule(name), config.layout, storage=storage)
        model.set_submodule(name, shell)


def _after_loading(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit | Linear8bitLt) and not quantized(module):
            raise ModelError(f"the checkpoint has no weight for {name}, which is to be quantized")
    _declare(model, config.layout)
    return model


@register_quantizer("qlora_repro_4bit")
class _Streaming4bit(Bnb4BitHfQuantizer):
    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, device_map: object = None, **_: object
    ) -> None:
        _before_loading(model, self.quantization_config)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **_: object
    ) -> PreTrainedModel:
        return _after_loading(model, self.quantization_config)


@register_quantizer("qlora_repro_8bit")
class _Streaming8bit(Bnb8BitHfQuantizer):
    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, device_map: object = None, **_: object
    ) -> None:
        _before_loading(model, self.quantization_config)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **_: object
    ) -> PreTrainedModel:
        return _after_loading(model, self.quantization_config)
