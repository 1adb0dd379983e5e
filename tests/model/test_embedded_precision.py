"""The real embedded model: bits measured, two backends that agree, an eval that leaves no trace."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.datasets import load_examples
from qlora_repro.data.tokenization import encode_examples
from qlora_repro.eval.evaluate import evaluate_model
from qlora_repro.model.embedded import embedded_checkpoint
from qlora_repro.quant.bitsandbytes import dequantize_weight
from qlora_repro.quant.fake_quant import round_trip
from qlora_repro.quant.linear_layers import find_linear_layers
from qlora_repro.quant.storage import measure_storage
from qlora_repro.session import ModelSession
from qlora_repro.stages.train import choose_collator
from qlora_repro.store.cell import ADAPTER
from qlora_repro.train.loss import token_loss

pytestmark = pytest.mark.long

LINEARS, BLOCKS, HIDDEN, VOCAB = 210, 30, 576, 49152


class Trial:
    """One live model with fresh adapters."""

    def __init__(self, cfg: RunConfig, folder: Path) -> None:
        self.cfg, self.live = cfg, ModelSession(cfg, folder)
        base = self.live.base().model
        self.stored = measure_storage(base)
        self.names = find_linear_layers(base)
        self.weights = {n: dequantize_weight(base.get_submodule(n)) for n in self.names}
        loaded = self.live.trainable()
        self.model, self.tokenizer = loaded.model.train(), loaded.tokenizer
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def batch(self) -> dict[str, Tensor]:
        examples = load_examples(self.cfg.data)
        rows = encode_examples(examples, self.tokenizer, self.cfg.data, kind="causal")
        return choose_collator(self.model, self.tokenizer, kind="causal", packing=False)(rows)

    def loss(self) -> Tensor:
        """Return the loss of the same batch; its gradients are left on the weights."""
        batch = self.batch()
        labels = batch.pop("labels")
        self.model.zero_grad()
        loss = token_loss(self.model(**batch).logits, labels, count=None)
        loss.backward()
        return loss.detach()

    def gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.trained.items() if p.grad is not None}


@pytest.fixture(scope="module")
def trial(
    configured: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Trial]:
    def make(*overrides: str) -> Trial:
        cfg = configured("data.rows=4", "lora.r=8", "eval.n=1", *overrides)
        return Trial(cfg, tmp_path_factory.mktemp("run"))

    return make


@pytest.fixture(scope="module")
def held(trial: Callable[..., Trial]) -> Trial:
    return trial("dtype=nf4", "dq=true")


@pytest.fixture(scope="module")
def simulated(trial: Callable[..., Trial]) -> Trial:
    return trial("dtype=nf4", "dq=true", "dtype.backend=simulated")


def checkpoint_weight(name: str) -> Tensor:
    with safe_open(embedded_checkpoint() / "model.safetensors", "pt") as file:
        weight: Tensor = file.get_tensor(f"{name}.weight")
    return weight.float()


def test_all_linear_layers_and_nothing_else_are_quantized(held: Trial) -> None:
    assert held.stored.kinds == {"Linear4bit": LINEARS}
    kept = {part["role"]: part["params"] for part in held.stored.kept}
    assert kept == {"embedding": VOCAB * HIDDEN, "norm": HIDDEN * (2 * BLOCKS + 1)}  # head is tied
    plain = {
        name for name, _ in held.model.get_base_model().named_parameters() if "lora" not in name
    }
    assert "model.embed_tokens.weight" in plain


def test_double_quantization_takes_4_127_bits_a_parameter(held: Trial, simulated: Trial) -> None:
    assert held.stored.bits_per_parameter == pytest.approx(4.127, abs=0.001)
    assert simulated.stored.bits_per_parameter == held.stored.bits_per_parameter


def test_without_double_quantization_it_is_4_5_bits_and_the_weights_are_the_simulated_ones(
    trial: Callable[..., Trial],
) -> None:
    single = trial("dtype=nf4", "dq=false")
    assert single.stored.bits_per_parameter == pytest.approx(4.5, abs=0.001)
    for name in single.names[::15]:
        weight = checkpoint_weight(name)
        simulated = round_trip(weight, dtype="nf4", blocksize=64, dq=False)
        assert torch.equal(simulated, single.weights[name]), name


def test_both_backends_hold_bit_identical_weights(held: Trial, simulated: Trial) -> None:
    assert len(held.names) == LINEARS
    assert simulated.names == held.names
    for name in held.names:
        assert torch.equal(held.weights[name], simulated.weights[name]), name


@pytest.mark.parametrize("dq", [False, True])
def test_fp4_reads_as_bitsandbytes_does_bit_for_bit(held: Trial, dq: bool) -> None:
    for name in held.names[::15]:
        weight = checkpoint_weight(name)
        packed, state = quantize_4bit(
            weight, blocksize=64, compress_statistics=dq, quant_type="fp4"
        )
        found = round_trip(weight, dtype="fp4", blocksize=64, dq=dq)
        assert torch.equal(found, dequantize_4bit(packed, state)), name


def test_both_backends_have_the_same_first_step(held: Trial, simulated: Trial) -> None:
    assert held.loss().item() == pytest.approx(simulated.loss().item(), abs=1e-6)
    ours, theirs = held.gradients(), simulated.gradients()
    assert ours.keys() == theirs.keys()
    assert len(ours) == 2 * LINEARS
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-3)


def test_an_eval_in_the_middle_of_training_changes_neither_loss_nor_gradients(held: Trial) -> None:
    held.loss()
    torch.optim.AdamW(held.trained.values(), lr=1e-3).step()
    loss, gradients = held.loss(), held.gradients()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    answers: Any = evaluate_model(held.model, held.tokenizer, held.cfg.eval, run_id="x")[1]
    assert answers
    assert held.model.training
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.equal(held.loss(), loss)
    for name, gradient in held.gradients().items():
        assert torch.equal(gradient, gradients[name]), name


@torch.no_grad()
def test_a_published_adapter_gives_the_same_logits_in_plain_peft(held: Trial) -> None:
    ids = torch.arange(100, 148).reshape(2, 24)
    for name, weight in held.trained.items():
        if "lora_B" in name:
            weight.normal_(std=0.01, generator=torch.Generator().manual_seed(0))
    folder = held.live.publish()
    assert folder.name == ADAPTER
    plain = AutoModelForCausalLM.from_pretrained(
        embedded_checkpoint(),
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    for module in plain.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # it rounds scales to bfloat16
    untuned = plain(ids).logits
    loaded = PeftModel.from_pretrained(plain, str(folder)).eval()
    ours = held.model.eval()(ids).logits
    held.model.train()
    torch.testing.assert_close(loaded(ids).logits, ours, atol=1e-5, rtol=0)
    assert (untuned - ours).abs().max() > 0.1
