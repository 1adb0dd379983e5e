"""Where a cell's model goes, and what is said or refused before it is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qlora_repro import session
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError
from qlora_repro.session import ModelSession

Configured = Callable[..., RunConfig]


class Loaded(Exception):
    """Raised in place of loading."""


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which torch, built for CUDA 13, sees no GPU; loading ends the test."""

    def load(*args: Any, **kwargs: Any) -> None:
        raise Loaded

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(session, "load_base", load)
    monkeypatch.setattr(session, "load_trained", load)


@pytest.mark.parametrize("model", ["llama_7b", "opt_6b7"])  # sizes by either way of the planner
def test_a_large_model_is_refused_before_it_is_loaded_where_no_gpu_is_seen(
    model: str, configured: Configured, tmp_path: Path
) -> None:
    cfg = configured(f"model={model}")
    why = r"has 6\.7 B parameters, .* built for CUDA 13\.0, which needs an NVIDIA driver of at lea"
    with pytest.raises(ConfigError, match=why):
        ModelSession(cfg, tmp_path).base()
    full = configured(f"model={model}", "lora=none", "dtype=bf16", "train=full")
    with pytest.raises(ConfigError, match=r"write model\.device=cpu"):
        ModelSession(full, tmp_path).tuned()
    with pytest.raises(Loaded):
        ModelSession(configured(f"model={model}", "model.device=cpu"), tmp_path).base()


def test_a_small_model_goes_to_the_cpu_with_a_word(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Loaded):
        ModelSession(configured("model=pythia_160m"), tmp_path).base()
    says = "note: torch sees no GPU: it is built for CUDA 13.0, which needs an NVIDIA driver of at "
    assert says in capsys.readouterr().out


def test_a_torch_without_cuda_says_so(
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Loaded):
        ModelSession(configured("model=pythia_160m"), tmp_path).base()
    assert "is a build without CUDA; pythia_160m goes to the CPU" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("model=tiny",), ("model=llama_7b", "model.device=cpu")])
def test_a_model_made_for_cpus_and_one_sent_there_go_without_a_word(
    words: tuple[str, ...], configured: Configured, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(Loaded):
        ModelSession(configured(*words), tmp_path).base()
    assert "note:" not in capsys.readouterr().out
