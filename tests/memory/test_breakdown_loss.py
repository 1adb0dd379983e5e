"""What the loss takes, against every tensor that lives while it is computed and goes backward."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.loss.loss_utils import ForCausalLMLoss

from qlora_repro.config.schema import RunConfig
from qlora_repro.memory import breakdown
from qlora_repro.memory.breakdown import loss_memory, training_memory
from qlora_repro.memory.settings import plan_run
from qlora_repro.train import loss
from qlora_repro.train.loss import token_loss

Configured = Callable[..., RunConfig]
LENGTH, VOCAB = 64, 8192  # so that logits dwarf everything else
SLACK = 0.02


class Peak(TorchDispatchMode):
    """Counts the bytes of storages that are alive, and the most of them at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves(args) if isinstance(x, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known:
                self._note(tensor.untyped_storage())
        self.most = max(self.most, sum(self.alive.values()))
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self.alive:
            self.alive[place] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, place, None)


def plain_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute what a causal model of transformers returns."""
    value: Tensor = ForCausalLMLoss(logits, labels, vocab_size=VOCAB)
    return value


def ours(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute this project's, with every position a target."""
    return token_loss(logits, torch.cat([labels, labels[:, :1]], dim=1), count=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("plain", "chunk"), [(True, 0), (False, loss.LOSS_CHUNK), (False, 2**17)])
def test_a_loss_takes_what_was_counted(
    plain: bool,
    chunk: int,
    dtype: torch.dtype,
    configured: Configured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (loss, breakdown):
        monkeypatch.setattr(module, "LOSS_CHUNK", chunk)
    words = ("model=llama3_1_8b", f"plan.length={LENGTH}", "data.train_on_source=true")
    name = str(dtype).removeprefix("torch.")
    cfg = configured(*words, "train.micro_batch_size=1", f"dtype.compute_dtype={name}")
    run = plan_run(cfg)
    run = replace(run, library_loss=plain, sizes=replace(run.sizes, vocab=VOCAB))
    counted = loss_memory(run).peak
    hidden = torch.randn(1, LENGTH, 8, dtype=dtype, requires_grad=True)
    head = torch.randn(VOCAB, 8, dtype=dtype)
    labels = torch.randint(VOCAB, (1, LENGTH))
    with Peak() as peak:
        value = (plain_loss if plain else ours)(hidden @ head.T, labels)
        value.backward()
    assert peak.most == pytest.approx(counted, rel=SLACK)


def test_the_chunk_is_that_of_the_loss() -> None:
    assert breakdown.LOSS_CHUNK == loss.LOSS_CHUNK


def test_an_output_layer_held_in_float32_has_a_16_bit_copy_until_its_backward_pass(
    configured: Configured,
) -> None:
    cfg = configured("model=llama3_1_8b", "plan.length=128")
    as_loaded = plan_run(cfg)
    prepared = replace(as_loaded, base_bytes=4)
    assert loss_memory(as_loaded).head == 0
    assert loss_memory(prepared).head == 2 * as_loaded.sizes.head
    more = training_memory(prepared).weights - training_memory(as_loaded).weights
    assert more == 2 * as_loaded.sizes.unquantized
