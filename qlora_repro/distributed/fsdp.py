"""A frozen base sharded over the processes, with adapters that each of them holds complete.

FSDP keeps a part of every frozen weight in each process and gathers a block's weights just before
they are used; 4-bit codes are gathered as they are, for a quarter of the traffic of 16-bit weights.
Only rank 0 has read the base. It broadcasts a block at a time, so that no other process ever holds
more than its shards and one block.

The adapters are small plain tensors in each process, so any optimizer trains them and they are
saved as ever. Their gradients are averaged here, because accelerate refuses DDP beside shards. Each
process keeps the scales of all weights.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.state import GradientState
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.errors import ModelError


def shard_model(model: Any, device: torch.device) -> None:
    """Divide the frozen weights of a model, with adapters or without, among processes, on `device`.

    Rank 0's model is in the host's memory, and the others' on the meta device: a block at a time
    goes to the GPUs. From then on the processes compute together: each forward pass is one of all.
    Raises ModelError for an architecture that does not say what its blocks are.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(inner, "_no_split_modules", None) or ())
    blocks = [module for module in inner.modules() if type(module).__name__ in names]
    if not blocks:
        raise ModelError(
            f"a {type(inner).__name__} does not say which of its modules are blocks, and "
            "train.sharded=true gathers a block at a time; use train.sharded=false"
        )
    trainable = list(_broadcast_weights(model, device, lambda tensor: tensor.requires_grad))
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for module in (*blocks, inner):  # what is in no block is gathered around the whole pass
        for _ in _broadcast_weights(module, device, _is_unsharded):
            pass
        fully_shard(module, mesh=mesh, ignored_params=set(trainable))
    inner.hf_device_map = {"": str(device)}
    inner._is_fsdp_managed_module = True  # transformers' mark: answers end in all processes at once


def prepare_sharded_training(model: Any) -> None:
    """Prepare a sharded model for training: average the gradients over the processes."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(_average_gradient)
    model._is_accelerate_prepared = True  # or accelerate wraps it in DDP, which refuses shards


class Autocast(TrainerCallback):
    """Computes in mixed precision where the Trainer's arguments say so, as accelerate would."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wrap the model's forward function."""
        model, device = kwargs["model"], args.device.type
        if args.bf16 or args.fp16:
            dtype = torch.bfloat16 if args.bf16 else torch.float16
            model.forward = torch.autocast(device, dtype=dtype)(model.forward)


def _is_unsharded(tensor: Tensor) -> bool:
    """Whether a tensor is frozen and not in shards yet."""
    return not tensor.requires_grad and not isinstance(tensor, DTensor)


def _broadcast_weights(
    module: nn.Module, device: torch.device, chosen: Callable[[Tensor], bool]
) -> Iterator[Any]:
    """Put rank 0's `chosen` weights and buffers on `device` in every process; yield each one.

    A weight that several modules share stays shared.
    """
    shared: dict[int, Any] = {}
    for owner in module.modules():
        weights = owner.named_parameters(recurse=False, remove_duplicate=False)
        buffers = owner.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in [*weights, *buffers]:
            if not chosen(tensor):
                continue
            if id(tensor) not in shared:
                shared[id(tensor)] = tensor, _broadcast_weight(owner, tensor, device)
                yield shared[id(tensor)][1]
            setattr(owner, name, shared[id(tensor)][1])


def _broadcast_weight(owner: nn.Module, tensor: Any, device: torch.device) -> Any:
    """Return rank 0's tensor on `device`, with the scales of 4-bit codes."""
    values = _broadcast(tensor, device)
    if isinstance(owner, Linear4bit) and tensor is owner.weight:
        stats = owner.weight.quant_state.as_dict() if distributed.get_rank() == 0 else {}
        return Params4bit.from_prequantized(
            values, _broadcast_all(stats, device), device=device, module=owner
        )
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values


def _broadcast_all(values: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return rank 0's dict in every process: tensors on `device`, the rest as it is."""
    plain: list[Any] = [{k: None if isinstance(v, Tensor) else v for k, v in values.items()}]
    distributed.broadcast_object_list(plain, src=0, device=torch.device("cpu"))
    tensors = [values.get(key) for key in plain[0]]
    shared = {
        key: _broadcast(tensor, device)
        for (key, value), tensor in zip(plain[0].items(), tensors, strict=True)
        if value is None
    }
    return {**plain[0], **shared}


def _broadcast(tensor: Tensor | None, device: torch.device) -> Tensor:
    """Return rank 0's tensor on `device`, byte for byte, whatever the others pass."""
    first = distributed.get_rank() == 0
    metadata: list[Any] = [(tensor.shape, tensor.dtype) if first and tensor is not None else None]
    distributed.broadcast_object_list(metadata, src=0, device=torch.device("cpu"))
    shape, dtype = metadata[0]
    values = (
        tensor.detach().to(device, copy=True).as_subclass(Tensor).contiguous()
        if first and tensor is not None
        else torch.empty(shape, dtype=dtype, device=device)
    )
    if values.numel():
        distributed.broadcast(values.view(-1).view(torch.uint8), src=0)
    return values


def _average_gradient(weight: Tensor) -> None:
    """Make a step's gradient the mean over all processes, once its last micro-batch is in."""
    if weight.grad is not None and GradientState().sync_gradients:
        distributed.all_reduce(weight.grad)
        weight.grad /= distributed.get_world_size()


def exclude_frozen_from_ddp(model: nn.Module) -> None:
    """Have DDP handle only what trains, so that it does not check, copy and send the base."""
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    model._ddp_params_and_buffers_to_ignore = [*frozen, *buffers]  # type: ignore[assignment]
