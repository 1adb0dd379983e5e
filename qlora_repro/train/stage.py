"""What training needs from the pipeline: examples as rows, the collator that fits the model."""

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from qlora_repro.config import DataConfig, ModelConfig, TrainConfig
from qlora_repro.data import collate
from qlora_repro.data.encode import Limits, Row, encode
from qlora_repro.errors import ConfigError
from qlora_repro.records import Example
from qlora_repro.tracker import Tracker
from qlora_repro.train.loop import runnable_optim

# Families whose attention mask is made from positions, so that packed rows cannot see each other.
PACKABLE = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox")


class TrackLoss(TrainerCallback):
    """Send each step's numbers to the tracker."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pass on what the Trainer logs."""
        logs = kwargs.get("logs", {})
        self.tracker.log({f"train/{k}": v for k, v in logs.items() if isinstance(v, int | float)})


class NoteProgress(TrainerCallback):
    """Note how far training is, at most once a second: `note` writes it into the run's folder."""

    def __init__(self, note: Callable[..., None]) -> None:
        self.note = note
        self.last = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed run counts only what is left to do."""
        self.began, self.first = time.monotonic(), state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the step, and the seconds that are left at the speed so far."""
        now = time.monotonic()
        if now - self.last < 1:
            return
        self.last = now
        a_step = (now - self.began) / (state.global_step - self.first)
        self.note(
            "training",
            step=state.global_step,
            steps=state.max_steps,
            seconds_a_step=a_step,
            seconds_left=a_step * (state.max_steps - state.global_step),
        )


def encoded(
    examples: Sequence[Example], tokenizer: Any, *, model: ModelConfig, cfg: DataConfig
) -> list[Row]:
    """Return the examples in tokens, within the lengths of the data section."""
    limits = Limits(
        max_source_len=cfg.max_source_len,
        max_target_len=cfg.max_target_len,
        train_on_source=cfg.train_on_source,
        truncated_eos=cfg.truncated_eos,
        max_truncated=cfg.max_truncated,
        num_labels=model.num_labels,
    )
    return encode(examples, tokenizer, kind=model.kind, limits=limits)


def collator(
    model: Any, tokenizer: Any, *, kind: str, packing: bool, marks_rows: bool = False
) -> collate.Collate:
    """Return the collator for a model of this kind; ConfigError where packing cannot work."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    pad = tokenizer.pad_token_id
    if packing and inner.config.model_type not in PACKABLE:
        raise ConfigError(
            f"train.packing=true would let rows see each other in a {inner.config.model_type} "
            f"model; it works for {', '.join(PACKABLE)}"
        )
    if kind == "seq2seq":
        return collate.seq2seq(pad, start_id=inner.config.decoder_start_token_id)
    if kind == "classification":
        return collate.classification(pad)
    trims = "logits_to_keep" in inspect.signature(inner.forward).parameters
    if packing:
        return collate.packed(trims_logits=trims, marks_rows=marks_rows)
    return collate.causal(pad, trims_logits=trims)


def optimizer_note(cfg: TrainConfig, model: nn.Module) -> str | None:
    """Return what to say when the optimizer that was asked for cannot run on this device."""
    device = next(model.parameters()).device.type
    runs = runnable_optim(cfg.optim, device=device)
    if runs == cfg.optim:
        return None
    return f"{cfg.optim} needs CUDA and nothing pages on a CPU; training with {runs}"
