"""Models of LLaMA's shapes with random weights, made on the device, a layer at a time."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from qlora_repro.config.schema import RunConfig
from qlora_repro.quant.bitsandbytes import disable_cpu_repacking, quantize_in_place
from qlora_repro.quant.linear_layers import find_quantizable_layers

SPREAD = 0.02  # standard deviation of the weights, as LLaMA is initialized
POSITIONS = 2048


def build_random_llama(cfg: RunConfig, device: torch.device) -> LlamaForCausalLM:
    """Return a model of cfg.model.architecture on the device, at cfg.dtype, frozen, in eval mode.

    One weight at a time is in 16 bits, so 65B in 4 bits takes what its codes take.
    """
    assert cfg.model.architecture is not None
    compute = getattr(torch, cfg.dtype.compute_dtype)
    sizes = asdict(cfg.model.architecture)
    config = LlamaConfig(**sizes, max_position_embeddings=POSITIONS, use_cache=False)
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config).to(compute)
    torch.manual_seed(0)
    for name in find_quantizable_layers(model):
        layer = model.get_submodule(name)
        layer.weight = _random(layer.weight, compute, device)
        if cfg.quantized:
            quantize_in_place(
                model,
                [name],
                dtype=cfg.dtype.name,
                blocksize=cfg.dtype.blocksize,
                dq=cfg.dq,
                compute_dtype=compute,
            )
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta:
                setattr(module, name, _random(weight, compute, device))
    model.tie_weights()
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    disable_cpu_repacking(model)
    return model.requires_grad_(False).eval()  # type: ignore[no-any-return]


def _random(weight: torch.Tensor, dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Return a parameter of a weight's shape: normal where it is a matrix, ones where a norm."""
    values = torch.ones(weight.shape, dtype=dtype, device=device)
    if weight.dim() > 1:
        values.normal_(0.0, SPREAD)
    return nn.Parameter(values, requires_grad=False)
