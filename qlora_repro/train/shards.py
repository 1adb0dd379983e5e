"""A frozen base divided among the processes, and adapters that each of them holds whole.

FSDP keeps a part of every frozen weight in each process and gathers a block's weights just before
they are used; 4-bit codes are gathered as they are, for a quarter of the traffic of 16-bit ones.
The adapters are small: they stay whole, plain tensors, so any optimizer trains them and they are
saved as ever, and their gradients are averaged as DDP would, which accelerate refuses beside
shards. Each process keeps the scales of all weights.
"""

from typing import Any

import torch
from accelerate.state import GradientState
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from qlora_repro.errors import ModelError


def shard(model: Any, device: torch.device, *, compute_dtype: torch.dtype) -> None:
    """Divide the frozen weights of a model with adapters among the processes, on `device`.

    The model may be in the host's memory: a block at a time goes to the GPU. There the forward pass
    computes in `compute_dtype`. Raises ModelError for an architecture that does not say what its
    blocks are.
    """
    inner = model.get_base_model()
    names = set(getattr(inner, "_no_split_modules", None) or ())
    blocks = [module for module in inner.modules() if type(module).__name__ in names]
    if not blocks:
        raise ModelError(
            f"a {type(inner).__name__} does not say which of its modules are blocks, and "
            "train.sharded=true gathers a block at a time; use train.sharded=false"
        )
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.data = weight.data.to(device)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for module in (*blocks, inner):  # what is in no block is gathered around the whole pass
        fully_shard(module, mesh=mesh, ignored_params=set(learning))
    inner.hf_device_map = {"": str(device)}
    for weight in learning:
        _average(weight)
    if device.type != "cpu" and compute_dtype != torch.float32:
        model.forward = torch.autocast(device.type, dtype=compute_dtype)(model.forward)
    model._is_accelerate_prepared = True  # or accelerate wraps it in DDP, which refuses shards


def _average(weight: nn.Parameter) -> None:
    """Give a weight rank 0's values, and each step's gradient the mean over all processes."""
    many = distributed.get_world_size()

    def average(weight: torch.Tensor) -> None:
        if weight.grad is not None and GradientState().sync_gradients:  # a step's last micro-batch
            distributed.all_reduce(weight.grad)
            weight.grad /= many

    distributed.broadcast(weight.data, src=0)
    weight.register_post_accumulate_grad_hook(average)


def leave_frozen(model: nn.Module) -> None:
    """Let DDP look after what trains alone: not check, copy and send the base at its start."""
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    constants = [name for name, _ in model.named_buffers()]
    model._ddp_params_and_buffers_to_ignore = [*frozen, *constants]  # type: ignore[assignment]
