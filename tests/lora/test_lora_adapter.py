from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from model_sections import model_section
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from qlora_repro.config.schema import DtypeConfig
from qlora_repro.errors import ConfigError, ModelError
from qlora_repro.lora import adapter as lora
from qlora_repro.model.load import load_base
from qlora_repro.model.tiny import make_tiny_checkpoint
from qlora_repro.quant.linear_layers import find_linear_layers

AUTO = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
}
IDS = torch.arange(5, 29).reshape(2, 12)


def base(family: str, kind: str = "causal", dtype: str = "bf16", compute: str = "float32") -> Any:
    model = model_section(make_tiny_checkpoint(family), kind, num_labels=2)
    backend = "none" if dtype == "bf16" else "bnb"
    return load_base(
        model, DtypeConfig(dtype, 64, compute, backend, "dynamic8", None), dq=dtype == "nf4"
    ).model


def adapted(model: Any, target: str = "all", seed: int = 0, **changes: Any) -> PeftModel:
    values: dict[str, Any] = {"r": 4, "alpha": 16, "dropout": 0.0, "rslora": False}
    found = lora.find_lora_targets(model, target, layers=None)
    return lora.attach_lora(model, list(found), seed=seed, **(values | changes))


def step(model: Any) -> float:
    """One forward and backward pass; returns the loss."""
    classifies = type(model.base_model.model).__name__.endswith("ForSequenceClassification")
    loss = model(input_ids=IDS, labels=torch.tensor([0, 1]) if classifies else IDS).loss
    loss.backward()
    return float(loss.detach())


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "opt", "bloom", "gpt2"])
def test_adapters_have_r_weights_for_each_input_and_output(family: str) -> None:
    model = base(family)
    shapes = [model.get_submodule(n).weight.shape for n in find_linear_layers(model)]
    peft = adapted(model)
    counts = lora.count_trainable(peft)
    assert counts["total"] == counts["adapter"] == sum(4 * (a + b) for a, b in shapes)
    assert counts["dtypes"] == {"float32": counts["total"]}


@pytest.mark.parametrize(("family", "kind"), [("llama", "causal"), ("t5", "seq2seq")])
@pytest.mark.parametrize("dtype", ["bf16", "nf4"])
def test_coverage_is_read_off_the_live_layers(family: str, kind: str, dtype: str) -> None:
    model = base(family, kind, dtype)
    wanted = list(lora.find_lora_targets(model, "ffn", layers=None).values())
    assert lora.count_adapted_roles(model) == {}
    peft = adapted(model, "ffn")
    assert lora.count_adapted_roles(peft) == {role: wanted.count(role) for role in set(wanted)}
    holds = {type(m.base_layer) for m in lora.find_lora_layers(peft).values()}
    assert holds == {Linear4bit if dtype == "nf4" else torch.nn.Linear}


@pytest.mark.parametrize(
    ("family", "kind"),
    [("llama", "causal"), ("gpt2", "causal"), ("t5", "seq2seq"), ("roberta", "classification")],
)
def test_adapter_loads_in_plain_peft_and_gives_the_same_logits(
    family: str, kind: str, tmp_path: Path
) -> None:
    model = adapted(base(family, kind))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        step(model)
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    plain = AUTO[kind].from_pretrained(make_tiny_checkpoint(family))
    with torch.no_grad():
        for weight in plain.parameters():
            weight.copy_(weight.bfloat16())
        inputs = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if kind == "seq2seq" else {})
        loaded = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
        with model.disable_adapter():
            assert not torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_classification_head_trains_in_float32_and_is_saved(compute: str, tmp_path: Path) -> None:
    model = adapted(base("roberta", "classification", "nf4", compute))
    step(model)
    head = {n for n in gradients(model) if ".modules_to_save." in n}
    assert len(head) == 4
    assert all(grad.abs().sum() > 0 for n, grad in gradients(model).items() if n in head)
    assert lora.count_trainable(model)["head"] == 128 * 128 + 128 + 2 * 128 + 2
    assert set(lora.count_trainable(model)["dtypes"]) == {"float32"}
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {n.split(".")[-2] for n in saved if "classifier" in n} == {"dense", "out_proj"}


def test_only_adapters_train() -> None:
    model = adapted(base("llama"))
    assert {n.split(".")[-3] for n in weights(model)} == {"lora_A", "lora_B"}


def test_seed_decides_the_initial_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, again, other = (adapted(base("llama"), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    first, second, third = weights(one), weights(again), weights(other)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert all(not torch.equal(first[n], third[n]) for n in first if "lora_A" in n)


def test_fresh_adapter_changes_nothing() -> None:
    model = base("llama")
    with torch.no_grad():
        before = model(IDS).logits
        assert torch.equal(adapted(model).eval()(IDS).logits, before)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 4), (True, 16 / 4**0.5)])
def test_scale_is_classic_or_rank_stabilised(rslora: bool, scale: float) -> None:
    model = adapted(base("llama"), rslora=rslora)
    scales = {layer.scaling["default"] for layer in lora.find_lora_layers(model).values()}
    assert scales == {scale}


def checkpointed_modules(model: torch.nn.Module) -> list[str]:
    names = ("activation_checkpointing", "gradient_checkpointing")
    return [n for n, m in model.named_modules() if any(getattr(m, name, False) for name in names)]


def test_gradients_are_the_same_with_checkpointing_on_a_frozen_base() -> None:
    plain, checkpointed = adapted(base("llama", dtype="nf4")), adapted(base("llama", dtype="nf4"))
    inner: Any = checkpointed.get_base_model()
    enable = getattr(inner, "activation_checkpointing_enable", None)
    (enable or inner.gradient_checkpointing_enable)({"use_reentrant": False})
    assert checkpointed_modules(inner)
    assert step(plain.train()) == step(checkpointed.train())
    for name, grad in gradients(plain).items():
        assert torch.equal(grad, gradients(checkpointed)[name]), name


def test_adapter_files_list_their_modules_in_a_fixed_order(tmp_path: Path) -> None:
    model = adapted(base("roberta", "classification"))
    config: Any = model.peft_config["default"]
    for value in (config.target_modules, config.modules_to_save):
        assert value == sorted(value)
        assert isinstance(value, list)


def test_adapter_names_its_base_and_its_commit() -> None:
    model = base("llama")
    model.name_or_path, model.config._commit_hash = "owner/name", "0123abc"
    config = adapted(model).peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("owner/name", "0123abc")


def test_adapters_elsewhere_than_asked_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qlora_repro.lora.adapter.find_lora_layers", lambda model: {"some.other": None}
    )
    with pytest.raises(ModelError, match="did not adapt exactly the layers asked for"):
        adapted(base("llama"), "qv")


def test_full_finetuning_trains_every_weight_in_float32() -> None:
    model = lora.unfreeze_base(base("llama", compute="bfloat16"))
    assert lora.count_trainable(model)["total"] == model.num_parameters()
    assert lora.count_trainable(model)["dtypes"] == {"float32": model.num_parameters()}


@pytest.mark.parametrize("dtype", ["nf4", "int8"])
def test_quantized_base_is_not_unfrozen(dtype: str) -> None:
    with pytest.raises(ConfigError, match=r"lora=none trains every weight, and .* is quantized"):
        lora.unfreeze_base(base("llama", dtype=dtype))
