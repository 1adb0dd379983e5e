"""Every kind and family trains on the loss that transformers itself computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.collators import IGNORE, causal_collator, order_rows
from qlora_repro.data.datasets import load_examples
from qlora_repro.data.tokenization import EncodedExample, encode_examples
from qlora_repro.model.tiny import make_tiny_checkpoint
from qlora_repro.records import Example
from qlora_repro.session import ModelSession
from qlora_repro.stages.train import choose_collator
from qlora_repro.train.loss import token_loss
from qlora_repro.train.trainer import TrainingInputs, TrainResult, train_model

pytestmark = pytest.mark.long

Configured = Callable[..., RunConfig]
DROPOUT = ("dropout", "attention_dropout", "activation_dropout", "dropout_rate", "hidden_dropout")
FAMILIES = ("llama", "gpt_neox", "opt", "bloom", "gpt2")


class Case:
    """A quantized model with adapters, without dropout, and rows that fit it."""

    def __init__(self, cfg: RunConfig, folder: Path, rows: list[Example]) -> None:
        self.cfg, self.folder = cfg, folder
        loaded = ModelSession(cfg, folder).trainable()
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        kind, num_labels = cfg.model.kind, cfg.model.num_labels
        self.rows = encode_examples(
            rows, self.tokenizer, cfg.data, kind=kind, num_labels=num_labels
        )
        for module in self.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            for name in DROPOUT:
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)

    def first(self) -> list[EncodedExample]:
        size, grouped = self.cfg.train.batch_size, self.cfg.train.group_by_length
        lengths = [len(row) for row in self.rows]
        seen = order_rows(lengths, batch_size=size, steps=1, seed=0, group_by_length=grouped)
        return [self.rows[i] for i in seen]

    def train(self) -> TrainResult:
        collate = choose_collator(
            self.model, self.tokenizer, kind=self.cfg.model.kind, packing=False
        )
        job = TrainingInputs(
            rows=self.rows, collate=collate, compute_dtype="float32", seed=0, folder=self.folder
        )
        return train_model(self.model, job, cfg=self.cfg.train)


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


@torch.no_grad()
def own_loss(case: Case) -> float:
    """The loss of transformers, which shifts labels and makes decoder inputs by itself."""
    rows = case.first()
    labels = padded([row.labels for row in rows], IGNORE)
    if case.cfg.model.kind == "classification":
        labels = labels[:, 0]
    mask = padded([[1] * len(row) for row in rows], 0)
    ids = padded([row.ids for row in rows], case.tokenizer.pad_token_id)
    return float(case.model(input_ids=ids, attention_mask=mask, labels=labels).loss)


def tiny(configured: Configured, kind: str, *overrides: str) -> RunConfig:
    small = ("model=tiny", "data.rows=16", "lora.r=8", "train.lr=0.01", "train.batch_size=8")
    steps = ("train.max_steps=8", "train.save_steps=0", "data.max_source_len=64")
    limits = ("data.max_truncated=1.0", f"model.kind={kind}")
    return configured(*small, *steps, *limits, *overrides)


def test_an_encoder_decoder_learns_its_targets(configured: Configured, tmp_path: Path) -> None:
    cfg = tiny(configured, "seq2seq")
    case = Case(cfg, tmp_path, load_examples(cfg.data))
    wanted = own_loss(case)
    steps = case.train().steps
    assert steps[0].loss == pytest.approx(wanted, abs=1e-5)
    assert steps[-1].loss < 0.8 * steps[0].loss


def test_a_classifier_learns_its_classes(configured: Configured, tmp_path: Path) -> None:
    rows = [
        Example(source=" ".join([word] * (number + 4)), target=str(label))
        for number in range(8)
        for label, word in enumerate(("yes", "no"))
    ]
    learned = ("train.batch_size=16", "train.lr=0.001", "train.max_steps=24")
    cfg = tiny(configured, "classification", "model.num_labels=2", *learned)
    case = Case(cfg, tmp_path, rows)
    wanted = own_loss(case)
    steps = case.train().steps
    assert steps[0].loss == pytest.approx(wanted, abs=1e-5)
    assert steps[-1].loss < 0.8 * steps[0].loss


def test_a_regression_learns_its_numbers(configured: Configured, tmp_path: Path) -> None:
    rows = [
        Example(source=" ".join([word] * (number + 4)), target=target)
        for number in range(8)
        for word, target in (("yes", "0.75"), ("no", "-0.5"))
    ]
    learned = ("train.batch_size=16", "train.lr=0.001", "train.max_steps=24")
    plain = ("dtype=bf16", "dq=false")  # no older transformers replaces a head on a 4-bit base
    cfg = tiny(configured, "classification", "model.num_labels=1", *plain, *learned)
    case = Case(cfg, tmp_path, rows)
    wanted = own_loss(case)
    steps = case.train().steps
    assert steps[0].loss == pytest.approx(wanted, abs=1e-5)
    assert steps[-1].loss < 0.8 * steps[0].loss


@pytest.mark.parametrize("on_source", ["true", "false"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_its_own_loss_with_and_without_trimmed_logits(
    family: str, on_source: str, configured: Configured, tmp_path: Path
) -> None:
    path = ("model=local", f"model.path={make_tiny_checkpoint(family)}")
    asked = (
        "dtype.compute_dtype=float32",
        "train.max_steps=1",
        "train.loss_mean=token",
        "train.micro_batch_size=1",
        "train.gradient_checkpointing=true",
        f"data.train_on_source={on_source}",
    )
    cfg = tiny(configured, "causal", *path, *asked)
    case = Case(cfg, tmp_path, load_examples(cfg.data))
    wanted = own_loss(case)
    for trims in (True, False):
        batch = causal_collator(case.tokenizer.pad_token_id, trims_logits=trims)(case.first())
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = case.model(**batch).logits
        assert logits.shape[1] + 1 == labels.shape[1]
        assert float(token_loss(logits, labels, count=None)) == pytest.approx(wanted, abs=1e-5)
    assert case.train().steps[0].loss == pytest.approx(wanted, abs=1e-5)


def test_every_family_computes_only_the_logits_that_the_loss_reads(configured: Configured) -> None:
    trimmed = set()
    for family in FAMILIES:
        cfg = tiny(
            configured, "causal", "model=local", f"model.path={make_tiny_checkpoint(family)}"
        )
        loaded = ModelSession(cfg, Path()).base()
        collate: Any = choose_collator(loaded.model, loaded.tokenizer, kind="causal", packing=False)
        batch = collate(
            [EncodedExample(ids=[5, 6, 7], labels=[IGNORE, IGNORE, 7], truncated=False)]
        )
        trimmed |= {family} if "logits_to_keep" in batch else set()
    assert trimmed == set(FAMILIES)
