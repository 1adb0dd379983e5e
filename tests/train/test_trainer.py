import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from plain_training import TRAIN
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, TrainerCallback, TrainingArguments

from qlora_repro.config.schema import TrainConfig
from qlora_repro.data.collators import causal_collator, packed_collator
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.errors import RunError
from qlora_repro.lora.adapter import cast_adapters
from qlora_repro.train import trainer
from qlora_repro.train.checkpoint import find_newest_checkpoint
from qlora_repro.train.trainer import (
    Numerics,
    TrainingInputs,
    TrainResult,
    runnable_optimizer,
    train_model,
)

pytestmark = pytest.mark.long


def adapted(model: LlamaForCausalLM, dropout: float = 0.1) -> PeftModel:
    torch.manual_seed(0)
    targets = ["q_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=dropout, target_modules=targets))


class Kill(TrainerCallback):
    """Stop the run as a power cut would: in the middle of a step, without a word."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise SystemError("power cut")


def run(
    model: Any,
    rows: list[EncodedExample],
    folder: Path,
    cfg: TrainConfig = TRAIN,
    callbacks: Any = (),
) -> TrainResult:
    collate = causal_collator(2, trims_logits=True)
    job = TrainingInputs(
        rows=rows,
        collate=collate,
        compute_dtype="float32",
        seed=0,
        folder=folder,
        callbacks=callbacks,
    )
    return train_model(model, job, cfg=cfg)


def adapter(model: PeftModel, folder: Path) -> bytes:
    model.save_pretrained(folder)
    return (folder / "adapter_model.safetensors").read_bytes()


def fresh(llama: LlamaForCausalLM) -> LlamaForCausalLM:
    copy = LlamaForCausalLM(llama.config)
    copy.load_state_dict(llama.state_dict())
    return copy


def test_same_seed_twice_gives_the_same_adapter_byte_for_byte(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    one, two = adapted(fresh(llama)), adapted(fresh(llama))
    run(one, rows, tmp_path / "one")
    torch.rand(7)  # what was drawn in between must not matter
    run(two, rows, tmp_path / "two")
    assert adapter(one, tmp_path / "a") == adapter(two, tmp_path / "b")


@pytest.mark.parametrize("step", [2, 3, 7, 11])
def test_killed_and_resumed_run_ends_with_the_same_adapter_byte_for_byte(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path, step: int
) -> None:
    whole = adapted(fresh(llama))
    run(whole, rows, tmp_path / "whole")
    killed = adapted(fresh(llama))
    with pytest.raises(SystemError):
        run(killed, rows, tmp_path / "cut", callbacks=[Kill(step)])
    resumed = adapted(fresh(llama))
    result = run(resumed, rows, tmp_path / "cut")
    assert result.resumed_from == step // 3 * 3
    assert [s.step for s in result.steps] == list(range(1, 13))
    assert adapter(resumed, tmp_path / "a") == adapter(whole, tmp_path / "b")


def test_half_written_checkpoint_is_passed_over_and_an_older_one_is_used(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    run(adapted(llama), rows, tmp_path, replace(TRAIN, max_steps=6, keep_checkpoints=2))
    newest = tmp_path / "checkpoint-6"
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:100])
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    shutil.rmtree(tmp_path / "checkpoint-3")
    assert find_newest_checkpoint(tmp_path) is None


def test_only_the_newest_checkpoints_are_kept(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    run(adapted(llama), rows, tmp_path)
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-12"]


def test_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    class Break(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    llama.model.norm.weight.fill_(float("nan"))

    with pytest.raises(RunError, match="the loss is nan at step 5"):
        run(adapted(llama), rows, tmp_path, callbacks=[Break()])
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_accumulation_gives_the_step_of_one_large_batch(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    cfg = replace(TRAIN, max_steps=3, save_steps=0)
    one, two = adapted(fresh(llama), dropout=0.0), adapted(fresh(llama), dropout=0.0)
    large = run(one, rows, tmp_path / "a", replace(cfg, micro_batch_size=4))
    small = run(two, rows, tmp_path / "b", replace(cfg, micro_batch_size=1))
    for a, b in zip(large.steps, small.steps, strict=True):
        assert a.loss == pytest.approx(b.loss, abs=1e-5)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)


def test_adam_gets_the_betas_and_the_clipping_of_the_paper(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    """One step, redone by hand with torch's own AdamW on the same gradient."""
    cfg = replace(TRAIN, max_steps=1, save_steps=0, micro_batch_size=4)
    model, twin = adapted(fresh(llama), 0.0), adapted(fresh(llama), 0.0)
    result = run(model, rows, tmp_path, cfg)
    from qlora_repro.data.collators import order_rows
    from qlora_repro.train.loss import token_loss

    seen = order_rows([len(r) for r in rows], batch_size=4, steps=1, seed=0, group_by_length=True)
    batch = causal_collator(2, trims_logits=True)([rows[i] for i in seen])
    labels = batch.pop("labels")
    twin.train()
    trained = [p for p in twin.parameters() if p.requires_grad]
    loss = token_loss(twin(**batch).logits, labels, count=None)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, 0.3)
    torch.optim.AdamW(trained, lr=1e-2, betas=(0.9, 0.999), weight_decay=0.0).step()
    assert result.steps[0].loss == pytest.approx(loss.item(), abs=1e-6)
    assert result.steps[0].grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for ours, by_hand in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, by_hand)


def test_counts_real_tokens_and_the_share_of_padding(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    cfg = replace(TRAIN, max_steps=10, save_steps=0)
    result = run(adapted(llama), rows, tmp_path, cfg)
    assert result.epochs == 1.0
    assert result.tokens == sum(map(len, rows))
    assert result.trained_tokens == sum(row.trained for row in rows)
    assert 0 < result.padded < 0.2
    assert result.optim == "adamw_torch_fused"


def test_paged_and_8bit_optimizers_are_replaced_on_a_cpu_alone() -> None:
    assert runnable_optimizer("paged_adamw_32bit", device="cpu") == "adamw_torch_fused"
    assert runnable_optimizer("adamw_bnb_8bit", device="cpu") == "adamw_torch_fused"
    assert runnable_optimizer("sgd", device="cpu") == "sgd"
    assert runnable_optimizer("paged_adamw_32bit", device="cuda") == "paged_adamw_32bit"


def test_checkpoint_weights_are_safetensors(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    run(adapted(llama), rows, tmp_path, replace(TRAIN, max_steps=3))
    assert load_file(tmp_path / "checkpoint-3" / "adapter_model.safetensors")


def test_a_process_that_sees_two_gpus_trains_the_same_batches_on_one(
    llama: LlamaForCausalLM,
    rows: list[EncodedExample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = run(adapted(fresh(llama)), rows, tmp_path / "one")
    set_up = TrainingArguments.__post_init__

    def sees_two(self: TrainingArguments) -> None:  # as on a machine with two GPUs
        set_up(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", sees_two)
    two = run(adapted(fresh(llama)), rows, tmp_path / "two")
    assert two.steps == one.steps


def test_adapters_in_16_bits_stay_so_when_a_run_is_taken_up(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    """PEFT casts what is read from a checkpoint to float32 unless it is told not to."""
    models = []
    for _ in range(3):
        model = adapted(fresh(llama))
        cast_adapters(model, "bfloat16")
        models.append(model)
    whole, killed, resumed = models
    run(whole, rows, tmp_path / "whole")
    with pytest.raises(SystemError):
        run(killed, rows, tmp_path / "cut", callbacks=[Kill(7)])
    assert run(resumed, rows, tmp_path / "cut").resumed_from == 6
    assert {p.dtype for p in resumed.parameters() if p.requires_grad} == {torch.bfloat16}
    assert adapter(whole, tmp_path / "a") == adapter(resumed, tmp_path / "b")


def test_a_model_is_scored_without_the_mixed_precision_that_it_was_trained_in(
    llama: LlamaForCausalLM,
    rows: list[EncodedExample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU stands in for a GPU here: accelerate wraps the model's forward on either alike."""
    monkeypatch.setattr(trainer, "_choose_numerics", lambda *_, **__: MIXED)
    model, ids = adapted(fresh(llama)), torch.arange(5, 29).reshape(2, 12)
    inside: list[torch.dtype] = []
    layer = model.base_model.model.model.layers[0].self_attn.k_proj
    hook = layer.register_forward_hook(lambda _, __, output: inside.append(output.dtype))
    job = TrainingInputs(
        rows=rows,
        collate=causal_collator(2, trims_logits=True),
        compute_dtype="bfloat16",
        seed=0,
        folder=tmp_path,
    )
    train_model(model, job, cfg=replace(TRAIN, max_steps=1, save_steps=0))
    assert set(inside) == {torch.bfloat16}
    hook.remove()
    stored = adapted(fresh(llama))
    stored.load_state_dict(model.state_dict())
    with torch.no_grad():
        scores = [m.eval()(input_ids=ids).logits for m in (model, stored)]
    assert torch.equal(*scores)


MIXED = Numerics(autocast=True, fused_layers=0, tf32=False, kernels="none", attention="sdpa")


def test_packed_rows_train_one_by_one_unless_torch_s_kernel_is_asked_for(
    llama: LlamaForCausalLM, rows: list[EncodedExample], tmp_path: Path
) -> None:
    results = {}
    for attention in ("auto", "sdpa"):
        job = TrainingInputs(
            rows=rows,
            collate=packed_collator(trims_logits=True),
            compute_dtype="float32",
            seed=0,
            folder=tmp_path / attention,
            attention=attention,
        )
        model = adapted(fresh(llama))
        cfg = replace(TRAIN, max_steps=3, save_steps=0, packing=True)
        results[attention] = train_model(model, job, cfg=cfg)
        assert model.config._attn_implementation == "sdpa"
    alone, masked = results["auto"], results["sdpa"]
    assert (alone.numerics.attention, masked.numerics.attention) == ("by_row", "sdpa")
    losses = [[step.loss for step in result.steps] for result in (alone, masked)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
