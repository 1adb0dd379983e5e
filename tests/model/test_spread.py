"""A model over several cards: which block goes where, and that what a run does is unchanged by it.

Cards are numbers here, or the CPU under the hooks by which accelerate lets blocks take turns.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from plain_training import TRAIN
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.questions import Question
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.errors import ConfigError
from qlora_repro.eval.lm_eval import evaluate_tasks
from qlora_repro.eval.perplexity import Windowing, measure_perplexity
from qlora_repro.lora import adapter
from qlora_repro.lora.adapter import attach_lora
from qlora_repro.model import load
from qlora_repro.model.device import build_device_map, move_outputs_early
from qlora_repro.quant.linear_layers import find_quantizable_layers
from qlora_repro.stages.generate import generate_answers
from qlora_repro.stages.train import choose_collator
from qlora_repro.train.trainer import TrainingInputs, train_model

CARD = 80 * 2**30
SIZES = {
    "llama_33b": LlamaConfig(hidden_size=6656, intermediate_size=17920, num_hidden_layers=60),
    "llama_65b": LlamaConfig(hidden_size=8192, intermediate_size=22016, num_hidden_layers=80),
}


def empty(name: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(SIZES[name], dtype=torch.bfloat16)


@pytest.mark.parametrize(("name", "cards"), [("llama_33b", 1), ("llama_65b", 2), ("llama_65b", 4)])
def test_a_16_bit_model_is_spread_in_equal_shares_block_by_block(name: str, cards: int) -> None:
    model = empty(name)
    places = build_device_map(
        model, dict.fromkeys(range(cards), CARD), name=name, quantized=(), dtype="bf16"
    )
    assert set(places.values()) == set(range(cards))
    where = {
        block: next(
            card for name, card in places.items() if f"{block}.".startswith(f"{name}.".lstrip("."))
        )
        for block in (f"model.layers.{n}" for n in range(len(model.model.layers)))
    }
    if cards > 1:
        assert [after - before for before, after in pairwise(where.values())].count(1) == cards - 1
        assert places["model.embed_tokens"] == 0
        assert places["lm_head"] == cards - 1
    shares = Counter(where.values()).values()
    assert max(shares) - min(shares) <= 3


def test_what_does_not_fit_is_refused_with_its_sizes_and_never_offloaded() -> None:
    model, card = empty("llama_65b"), {0: CARD}
    with pytest.raises(ConfigError, match=r"take 130\.57 GB as dtype=bf16, .* have 85\.90 GB free"):
        build_device_map(model, card, name="llama_65b", quantized=(), dtype="bf16")
    names = find_quantizable_layers(model)
    assert build_device_map(model, card, name="llama_65b", quantized=names, dtype="nf4")
    two = dict.fromkeys(range(2), 24 * 2**30)
    assert set(
        build_device_map(model, two, name="llama_65b", quantized=names, dtype="nf4").values()
    ) == {
        0,
        1,
    }
    with pytest.raises(ConfigError, match=r"use more cards or a smaller model"):
        build_device_map(model, {0: CARD // 4}, name="llama_65b", quantized=names, dtype="nf4")


class Read(Exception):
    """Raised in place of reading weights."""


@pytest.mark.parametrize("dtype", ["nf4", "bf16"])
def test_a_spread_model_is_read_onto_the_cards_that_are_free(
    dtype: str, configured: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def read(*args: Any, **kwargs: Any) -> None:
        asked.update(kwargs)
        raise Read

    def spread(empty: Any, cards: Any, **how: Any) -> dict[str, int]:
        asked.update(how)
        return build_device_map(
            empty, cards, **how | {"quantized": ()}
        )  # 4 bits fit the second card

    monkeypatch.setattr(load, "resolve_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(load, "free_bytes_by_card", lambda: {0: 1 << 30, 1: 1 << 30})
    monkeypatch.setattr(load, "build_device_map", spread)
    monkeypatch.setattr(load.AUTO_CLASSES["causal"], "from_pretrained", read)
    cfg = configured("model=tiny", "model.device=spread", f"dtype={dtype}")
    with pytest.raises(Read):
        load.load_base(cfg.model, cfg.dtype, dq=cfg.dq)
    assert set(asked["device_map"].values()) == {0, 1}
    assert len(asked["quantized"]) == (14 if dtype == "nf4" else 0)


def test_hidden_states_reach_the_next_card_before_its_first_block_begins(
    llama: LlamaForCausalLM,
) -> None:
    """The meta device stands in for the second card, as it takes tensors and computes nothing."""
    llama.model.layers[1].to("meta")
    seen: list[torch.device] = []
    llama.model.layers[1].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].device)
    )
    move_outputs_early(llama)
    with suppress(RuntimeError, NotImplementedError):  # of what follows the meta device
        llama(input_ids=torch.tensor([[3, 4, 5]]))
    assert seen == [torch.device("meta")]


@pytest.mark.parametrize("dtype", [("dtype=nf4",), ("dtype=bf16", "dq=false")])
def test_a_model_under_hooks_trains_scores_and_answers_as_without(
    dtype: tuple[str, ...],
    rows: list[EncodedExample],
    tmp_path: Path,
    configured: Callable[..., RunConfig],
) -> None:
    cfg = configured("model=tiny", "eval.n=1", "generate=procedural", *dtype)
    cfg.generate.max_new_tokens = 4
    alone, hooked = (
        everything(cfg, rows, tmp_path / name, hooked=name == "hooked")
        for name in ("alone", "hooked")
    )
    assert hooked == alone


def everything(
    cfg: RunConfig, rows: list[EncodedExample], folder: Path, *, hooked: bool
) -> list[Any]:
    """Train the tiny model, score it in each way and let it answer; return what came of it."""
    loaded = load.load_base(cfg.model, cfg.dtype, dq=cfg.dq)
    model, tokenizer = loaded.model, loaded.tokenizer
    if hooked:  # accelerate moves what enters each module, as between two cards
        names = ("embed_tokens", "layers.0", "layers.1", "norm", "rotary_emb")
        places = dict.fromkeys([*(f"model.{name}" for name in names), "lm_head"], "cpu")
        model = dispatch_model(model, places, force_hooks=True)
        assert len(model.hf_device_map) > 1
        move_outputs_early(model)
    names = list(adapter.find_lora_targets(model, "all", layers=None))
    adapted = attach_lora(model, names, r=4, alpha=16, dropout=0.1, rslora=False, seed=0)
    job = TrainingInputs(
        rows=rows,
        collate=choose_collator(adapted, tokenizer, kind="causal", packing=False),
        compute_dtype="float32",
        seed=0,
        folder=folder,
    )
    steps = train_model(adapted, job, cfg=replace(TRAIN, gradient_checkpointing=True)).steps
    text = "What day of the week comes ten days after Monday?"
    losses = measure_perplexity(adapted, tokenizer, text, windowing=Windowing(window=8)).losses
    scores = evaluate_tasks(adapted, tokenizer, cfg.eval, run_id="run")
    asked = [Question(question_id="1", text="Who?"), Question(question_id="2", text="What is it?")]
    answers = generate_answers(adapted, tokenizer, asked, cfg.generate, run_id="run", seed=0)
    return [steps, losses, scores, answers]
