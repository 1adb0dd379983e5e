"""merge=true: a plain 16-bit model that computes what the adapter on its dequantized base does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from qlora_repro import pipeline
from qlora_repro.config.schema import RunConfig
from qlora_repro.lora import adapter as lora
from qlora_repro.model.load import load_base
from qlora_repro.quant.bitsandbytes import dequantize_weight
from qlora_repro.session import ModelSession
from qlora_repro.stages.merge import PROBE_TEXTS, run_merge

pytestmark = pytest.mark.long

SMALL = (
    "model=tiny",
    "data.rows=16",
    "train.max_steps=4",
    "train.lr=0.02",
    "lora.r=8",
    "stages=[train]",
    "merge=true",
)
HOLDS = {
    "bnb": ("dtype=nf4", "dq=true"),
    "simulated": ("dtype=nf4", "dq=true", "dtype.backend=simulated"),
    "bf16": ("dtype=bf16", "dq=false"),
}
AUTO: dict[str, Any] = {
    "causal": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classification": AutoModelForSequenceClassification,
}
IDS = torch.arange(5, 53).reshape(2, 24)


@dataclass
class Merged:
    """A merged run and its parts, each loaded by other code than the merge."""

    folder: Path
    live: Any  # adapter on its quantized base
    said: str


@pytest.fixture(params=HOLDS)
def merged(
    request: pytest.FixtureRequest,
    configured: Callable[..., RunConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Merged:
    cfg = configured(*SMALL, *HOLDS[request.param], f"results_dir={tmp_path}")
    folder = pipeline.run_stages(cfg).folder
    base = load_base(cfg.model, cfg.dtype, dq=cfg.dq).model
    live = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    return Merged(folder, live, capsys.readouterr().out)


def exact(live: PeftModel) -> dict[str, Tensor]:
    """W + (alpha / r) B A for each adapted layer, in float64, from peft's own tensors."""
    found = {}
    for name, site in lora.find_lora_layers(live).items():
        layer: Any = site
        a, b = layer.lora_A["default"].weight.double(), layer.lora_B["default"].weight.double()
        weight = dequantize_weight(layer.base_layer).double()
        assert b.abs().max() > 0
        found[f"{name}.weight"] = weight + 16 / 8 * b @ a
    return found


def test_merged_weights_are_the_exact_ones_rounded_to_bfloat16(merged: Merged) -> None:
    plain = AutoModelForCausalLM.from_pretrained(merged.folder / "merged", dtype=torch.bfloat16)
    wanted, found = exact(merged.live), plain.state_dict()
    assert len(wanted) == 14
    for name, weight in wanted.items():
        # half a unit in the last of bfloat16's 8 bits, and float32's own rounding before it
        assert ((found[name].double() - weight).abs() <= weight.abs() * 2**-8 + 1e-7).all(), name
    for name, weight in merged.live.get_base_model().state_dict().items():
        if name in found and ".lora_" not in name:
            assert torch.equal(found[name].float(), weight.float())


@torch.no_grad()
def test_merged_logits_are_those_of_the_adapter_up_to_the_rounding(merged: Merged) -> None:
    plain = AutoModelForCausalLM.from_pretrained(merged.folder / "merged", dtype=torch.float32)
    ours, rounded = merged.live(IDS).logits, plain(IDS).logits
    plain.load_state_dict({n: w.float() for n, w in exact(merged.live).items()}, strict=False)
    # A logit sums some hundred products, and what it reads went through two blocks of such sums:
    # the order of adding, which follows the processor, moves it by some hundred ulps.
    ulps = 256 * torch.finfo(torch.float32).eps * float(ours.abs().max())
    torch.testing.assert_close(plain(IDS).logits, ours, atol=ulps, rtol=0)
    shift = (rounded - ours).abs()
    assert 0 < shift.max() < 0.05 * ours.abs().max()
    with merged.live.disable_adapter():
        assert shift.mean() < (merged.live(IDS).logits - ours).abs().mean() / 20


@torch.no_grad()
def test_it_says_how_far_the_logits_moved(merged: Merged) -> None:
    plain = AutoModelForCausalLM.from_pretrained(merged.folder / "merged", dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(merged.folder / "merged")
    moved = [
        (merged.live(ids).logits - plain(ids).logits.float()).abs().flatten()
        for ids in (tokenizer(text, return_tensors="pt")["input_ids"] for text in PROBE_TEXTS)
    ]
    largest, mean = torch.cat(moved).max().item(), torch.cat(moved).mean().item()
    words = " ".join(merged.said.split())
    assert f"moved by {mean:.4f} on average and {largest:.4f} at most" in words


def test_merged_folder_is_a_plain_checkpoint(merged: Merged) -> None:
    assert {path.suffix for path in (merged.folder / "merged").iterdir()} == {
        ".json",
        ".safetensors",
    }
    text = (merged.folder / "merged" / "config.json").read_text()
    assert '"bfloat16"' in text
    assert "quantization" not in text


@pytest.mark.parametrize(
    ("kind", "family"),
    [("causal", "gpt2"), ("classification", "roberta"), ("seq2seq", "t5")],
)
def test_other_layouts_merge_too(
    kind: str, family: str, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """GPT-2 keeps its weights transposed, a classifier trains its head along, T5 has two stacks."""
    from qlora_repro.model.tiny import make_tiny_checkpoint

    labels = "2" if kind == "classification" else "null"
    path = f"model.path={make_tiny_checkpoint(family)}"
    asked = ["model=local", path, f"model.kind={kind}"]
    asked += [f"model.num_labels={labels}"] * (kind == "classification")
    live = ModelSession(configured(*asked, "dtype.compute_dtype=float32"), tmp_path)
    model = live.trainable().model
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(
                    torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)),
                    alpha=0.02,
                )
    folder = run_merge(live)
    plain = AUTO[kind].from_pretrained(folder, dtype=torch.float32)
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    batch |= {"decoder_input_ids": IDS} if kind == "seq2seq" else {}
    with torch.no_grad():
        ours, theirs = model(**batch).logits, plain(**batch).logits
        base = load_base(live.cfg.model, live.cfg.dtype, dq=True).model(**batch).logits
    assert (ours - theirs).abs().max() < 0.05 * ours.abs().max()
    assert (ours - base).abs().max() > 5 * (ours - theirs).abs().max()
