"""Activation checkpointing goes by one name in transformers 5.23 and by another before it."""

from dataclasses import make_dataclass
from typing import Any

import pytest
from transformers import TrainingArguments

from qlora_repro.train import memory


class Recorder:
    """Stands in for a model of some version of transformers; notes which method was called."""

    def __init__(self, *names: str) -> None:
        self.called: list[str] = []
        for name in names:
            setattr(self, name, lambda name=name: self.called.append(name))


def test_the_installed_trainer_takes_the_arguments(tmp_path: Any) -> None:
    made = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, **memory.checkpointing_arguments(True)
    )
    assert made.gradient_checkpointing_kwargs == {"use_reentrant": False} or (
        made.activation_checkpointing_kwargs == {"use_reentrant": False}
    )


@pytest.mark.parametrize(
    ("there", "name"),
    [
        (("gradient_checkpointing",), "gradient_checkpointing"),
        (("gradient_checkpointing", "activation_checkpointing"), "activation_checkpointing"),
    ],
)
def test_arguments_have_the_name_that_the_version_knows(
    there: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TrainingArguments", make_dataclass("Arguments", there))
    arguments = memory.checkpointing_arguments(False)
    assert arguments == {name: False, f"{name}_kwargs": {"use_reentrant": False}}


def test_an_older_model_is_asked_by_the_older_name() -> None:
    older: Any = Recorder("gradient_checkpointing_disable")
    newer: Any = Recorder("gradient_checkpointing_disable", "activation_checkpointing_disable")
    for model in (older, newer):
        memory.disable_checkpointing(model)
    assert older.called == ["gradient_checkpointing_disable"]
    assert newer.called == ["activation_checkpointing_disable"]
