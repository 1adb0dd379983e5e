"""A frozen base divided among the processes, and adapters that each of them holds whole.

FSDP keeps a part of every frozen weight in each process and gathers a block's weights just before
they are used; 4-bit codes are gathered as they are, for a quarter of the traffic of 16-bit ones.
The adapters are small: they stay whole, plain tensors, so any optimizer trains them and they are
saved as ever, and DDP averages their gradients. Each process keeps the scales of all weights.
"""

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from qlora_repro.errors import ModelError


def shard(model: Any, device: torch.device) -> None:
    """Divide the frozen weights of a model with adapters among the processes, on `device`.

    The model may be in the host's memory: a block at a time goes to the GPU. Raises ModelError for
    an architecture that does not say what its blocks are.
    """
    inner = model.get_base_model()
    names = set(getattr(inner, "_no_split_modules", None) or ())
    blocks = [module for module in inner.modules() if type(module).__name__ in names]
    if not blocks:
        raise ModelError(
            f"a {type(inner).__name__} does not say which of its modules are blocks, and "
            "train.sharded=true gathers a block at a time; use train.sharded=false"
        )
    learning = {weight for weight in model.parameters() if weight.requires_grad}
    for weight in learning:
        weight.data = weight.data.to(device)
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for module in (*blocks, inner):  # what is in no block is gathered around the whole pass
        fully_shard(module, mesh=mesh, ignored_params=learning)
    inner.hf_device_map = {"": str(device)}


def leave_frozen(model: nn.Module) -> None:
    """Let DDP look after what trains alone: not check, copy and send the base at its start."""
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    constants = [name for name, _ in model.named_buffers()]
    model._ddp_params_and_buffers_to_ignore = [*frozen, *constants]  # type: ignore[assignment]
