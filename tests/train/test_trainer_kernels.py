"""What a library of kernels changes in transformers is undone when training ends."""

import pytest
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama

from qlora_repro.errors import ConfigError
from qlora_repro.train import trainer
from qlora_repro.train.trainer import check_kernels, restore_library


def test_functions_and_classes_of_the_library_come_back(llama: LlamaForCausalLM) -> None:
    before = dict(vars(modeling_llama))
    with restore_library(llama):
        modeling_llama.LlamaRMSNorm = modeling_llama.LlamaMLP  # as Liger replaces them
        modeling_llama.apply_rotary_pos_emb = None
    assert dict(vars(modeling_llama)) == before


def test_kernels_that_are_not_installed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    check_kernels("none")
    with pytest.raises(ConfigError, match=r"needs the package liger-kernel.*\[liger\]"):
        check_kernels("liger")
