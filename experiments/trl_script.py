"""The baseline that a user would pick: QLoRA through TRL's SFTTrainer, an extra of its own ([trl]).

The model is that of the plain script; rows are tokenized and masked beforehand, as every arm's are.
What is not named is TRL's default, but for checkpointing, which no arm has.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from qlora_repro.config.schema import RunConfig
from qlora_repro.data.tokenization import EncodedExample


def train_with_trl(
    cfg: RunConfig, model: Any, tokenizer: Any, rows: Sequence[EncodedExample], *, watch: list[Any]
) -> None:
    """Train one epoch; `watch` takes callbacks."""
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    compute = getattr(torch, cfg.dtype.compute_dtype)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            learning_rate=cfg.train.lr,
            lr_scheduler_type=cfg.train.schedule,
            per_device_train_batch_size=cfg.train.batch_size,
            num_train_epochs=1,
            max_grad_norm=cfg.train.max_grad_norm,
            max_length=None,
            bf16=compute == torch.bfloat16,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=next(model.parameters()).device.type == "cpu",
        )
        trainer = SFTTrainer(
            model,
            arguments,
            train_dataset=Dataset.from_list(
                [{"input_ids": row.ids, "labels": row.labels} for row in rows]
            ),
            processing_class=tokenizer,
            callbacks=watch,
        )
        if compute == torch.float32:  # TRL makes the adapters of a 4-bit base bf16 in any case
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        trainer.train()
