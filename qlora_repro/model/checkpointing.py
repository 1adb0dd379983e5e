"""Activation checkpointing, by the name the installed transformers has: gradient_… before 5.23."""

from dataclasses import fields
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

NEW, OLD = "activation_checkpointing", "gradient_checkpointing"


def checkpointing_arguments(enabled: bool) -> dict[str, Any]:
    """Return the Trainer's arguments that compute activations a second time to save memory."""
    name = NEW if NEW in {field.name for field in fields(TrainingArguments)} else OLD
    return {name: enabled, f"{name}_kwargs": {"use_reentrant": False}}


def disable_checkpointing(model: PreTrainedModel) -> None:
    """Keep every activation of a model again."""
    name = NEW if hasattr(model, f"{NEW}_disable") else OLD
    getattr(model, f"{name}_disable")()
