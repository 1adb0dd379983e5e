"""The baseline: LoRA on a quantized base as one writes it with transformers.Trainer and peft.

Batches in random order, padded to their longest row; logits for every position; the model's own
loss. Nothing of this project but the checkpoint's folder and the rows, which every arm shares.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.tokenization import EncodedExample
from qlora_repro.model.checkpoint import find_checkpoint
from qlora_repro.model.device import resolve_device


def plain_model(cfg: RunConfig) -> tuple[Any, Any]:
    """Return the model with its adapters, and the tokenizer."""
    folder = find_checkpoint(cfg.model).folder
    compute = getattr(torch, cfg.dtype.compute_dtype)
    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=cfg.dq,
        bnb_4bit_compute_dtype=compute,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=compute,
        device_map={"": str(resolve_device(cfg.model.device))},
        quantization_config=quantized if cfg.quantized else None,
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False  # bitsandbytes computes in bfloat16 there
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=cfg.lora.r,
        lora_alpha=int(cfg.lora.alpha),
        lora_dropout=cfg.lora.dropout,
        target_modules="all-linear",
    )
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(folder)


def train_plainly(
    cfg: RunConfig, model: Any, tokenizer: Any, rows: Sequence[EncodedExample], *, watch: list[Any]
) -> None:
    """Train one epoch; `watch` takes callbacks."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            learning_rate=cfg.train.lr,
            lr_scheduler_type=cfg.train.schedule,
            per_device_train_batch_size=cfg.train.batch_size,
            num_train_epochs=1,
            max_grad_norm=cfg.train.max_grad_norm,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=next(model.parameters()).device.type == "cpu",
        )
        trainer = Trainer(
            model,
            arguments,
            DataCollatorForSeq2Seq(tokenizer),
            train_dataset=[{"input_ids": row.ids, "labels": row.labels} for row in rows],
            callbacks=watch,
        )
        trainer.train()
