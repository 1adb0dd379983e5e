"""The manifest's numbers against closed forms, and that a contradiction fails the run."""

import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qlora_repro import pipeline, session
from qlora_repro.config.paths import ROOT
from qlora_repro.config.schema import RunConfig
from qlora_repro.data.collators import order_rows
from qlora_repro.data.datasets import load_examples
from qlora_repro.errors import QloraError, RunError
from qlora_repro.lora import adapter
from qlora_repro.model.load import load_base
from qlora_repro.quant.linear_layers import find_quantizable_layers

Configured = Callable[..., RunConfig]
SMALL = ("model=tiny", "data.rows=24", "train.max_steps=2", "stages=[train]")
# the tiny Llama: role -> (in, out) of each of its two blocks
SHAPES = {
    "q": (128, 128),
    "k": (128, 64),
    "v": (128, 64),
    "o": (128, 128),
    "gate": (128, 256),
    "up": (128, 256),
    "down": (256, 128),
}
BLOCKS, VOCAB, HIDDEN = 2, 512, 128


def manifest(configured: Configured, root: Path, *overrides: str) -> tuple[RunConfig, Any]:
    cfg = configured(*SMALL, f"results_dir={root}", *overrides)
    found = pipeline.run_stages(cfg).manifest
    assert found is not None
    return cfg, found.to_json()


@pytest.mark.parametrize(
    ("target", "roles"),
    [("all", list(SHAPES)), ("qv", ["q", "v"]), ("attention", list("qkvo")), ("kq", ["k", "q"])],
)
def test_lora_has_r_weights_for_each_input_and_output_of_each_site(
    target: str, roles: list[str], configured: Configured, tmp_path: Path
) -> None:
    _, found = manifest(configured, tmp_path, f"lora={target}", "lora.r=8")
    assert found["lora"]["sites"] == dict.fromkeys(roles, BLOCKS)
    wanted = BLOCKS * sum(8 * sum(SHAPES[role]) for role in roles)
    assert found["trainable"]["adapter"] == found["trainable"]["total"] == wanted
    assert found["trainable"]["dtypes"] == {"float32": wanted}


def test_explicit_layers_are_counted(configured: Configured, tmp_path: Path) -> None:
    _, found = manifest(configured, tmp_path, "lora=qv", "lora.layers=[1]")
    assert found["lora"]["sites"] == {"q": 1, "v": 1}


@pytest.mark.parametrize("backend", ["bnb", "simulated"])
@pytest.mark.parametrize("dq", [False, True])
def test_bytes_of_the_base_are_those_of_the_closed_form(
    dq: bool, backend: str, configured: Configured, tmp_path: Path
) -> None:
    asked = (f"dq={str(dq).lower()}", f"dtype.backend={backend}")
    _, found = manifest(configured, tmp_path, *asked, "dtype.blocksize=128")
    sizes = [n_in * n_out for n_in, n_out in SHAPES.values()] * BLOCKS
    scales = [size // 128 for size in sizes]
    nested = sum(n + 4 * math.ceil(n / 256) + 4 for n in scales)  # 8-bit, their own scales, offset
    base = found["base"]
    assert base["modules"] == len(sizes)
    assert base["parameters"] == sum(sizes)
    assert base["code_bytes"] == sum(sizes) // 2
    assert base["scale_bytes"] == (nested if dq else 4 * sum(scales))
    assert base["double_quantized"] == (len(sizes) if dq else 0)
    assert base["scales"] == ["dynamic8" if dq else "float32"]
    bits = 8 * (base["code_bytes"] + base["scale_bytes"]) / sum(sizes)
    assert base["bits_per_parameter"] == pytest.approx(bits)
    kept = {part["role"]: part["params"] for part in base["kept"] if part["role"] != "adapter"}
    norms = HIDDEN * (2 * BLOCKS + 1)
    assert kept == {"embedding": VOCAB * HIDDEN, "linear": VOCAB * HIDDEN, "norm": norms}


def test_tokens_and_truncation_are_those_of_the_rows(
    configured: Configured, tmp_path: Path
) -> None:
    limits = ("data.max_source_len=80", "data.max_truncated=1.0", "data.train_on_source=false")
    cfg, found = manifest(configured, tmp_path, *limits)
    tokenizer = load_base(cfg.model, cfg.dtype, dq=cfg.dq).tokenizer
    rows = load_examples(cfg.data)
    sources = [len(tokenizer(row.source)["input_ids"]) for row in rows]  # <s> included
    targets = [
        len(tokenizer(row.target, add_special_tokens=False)["input_ids"]) + 1 for row in rows
    ]
    lengths = [min(n, 80) + m for n, m in zip(sources, targets, strict=True)]
    data, training = found["data"], found["training"]
    cut = sum(n > 80 for n in sources) / len(rows)
    assert 0 < cut < 1
    assert data["truncated_share"] == cut
    assert data["tokens"] == sum(lengths)
    assert data["trained_share"] == pytest.approx(sum(targets) / sum(lengths))
    size = cfg.train.batch_size
    seen = order_rows(lengths, batch_size=size, steps=2, seed=0, group_by_length=True)
    assert training["tokens"] == sum(lengths[i] for i in seen)
    assert training["trained_tokens"] == sum(targets[i] for i in seen)
    assert training["epochs"] == 2 * size / 24


@pytest.mark.parametrize(("ends", "expected"), [("true", 0.0), ("false", 1.0)])
def test_rows_that_do_not_teach_to_stop_are_counted(
    ends: str, expected: float, configured: Configured, tmp_path: Path
) -> None:
    words = ("data.max_target_len=2", "data.max_truncated=1.0", f"data.truncated_eos={ends}")
    _, found = manifest(configured, tmp_path, *words)
    cut = found["data"]["truncated_share"]
    assert cut > 0
    assert found["data"]["unended_share"] == expected * cut


def test_manifest_is_plain_json_and_names_its_commit_device_and_settings(
    configured: Configured, tmp_path: Path
) -> None:
    cfg, found = manifest(configured, tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["decided_by"]["dtype"]["blocksize"] == cfg.dtype.blocksize
    assert found["provenance"]["packages"]["bitsandbytes"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert found["provenance"]["commit"] == (head.stdout.strip() or None)
    assert found["training"]["peak_memory"] > 100e6
    assert found["seed"] == 0


@pytest.mark.parametrize("checked_on_loading", [True, False])
def test_a_layer_that_was_not_quantized_fails_the_run(
    checked_on_loading: bool,
    configured: Configured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "qlora_repro.quant.bitsandbytes.find_quantizable_layers",
        lambda m, **_: find_quantizable_layers(m)[:-1],
    )
    if not checked_on_loading:  # the manifest sees it as well
        monkeypatch.setattr("qlora_repro.model.load.check_quantized", lambda *_, **__: None)
    with pytest.raises(
        QloraError, match=r"down_proj was to be held as|only 13 of 14 layers are quantized"
    ):
        manifest(configured, tmp_path)
    assert not list(tmp_path.rglob("*.json*l"))


def test_scales_that_were_not_nested_fail_the_run(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(model: Any, dtype: Any, *, dq: bool, seed: int = 0) -> Any:
        return load_base(model, dtype, dq=False, seed=seed)

    monkeypatch.setattr("qlora_repro.session.load_base", without)
    with pytest.raises(RunError, match="dq=True, but 0 of 14 layers have nested scales"):
        manifest(configured, tmp_path)


def test_constants_kept_in_another_type_than_asked_for_fail_the_run(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("dtype.backend=simulated", "dtype.scales=fp8_e4m3")
    _, found = manifest(configured, tmp_path / "kept", *asked)
    assert found["base"]["scales"] == ["fp8_e4m3"]

    def otherwise(model: Any, dtype: Any, *, dq: bool, seed: int = 0) -> Any:
        return load_base(model, replace(dtype, scales="dynamic8"), dq=dq, seed=seed)

    monkeypatch.setattr("qlora_repro.session.load_base", otherwise)
    session.clear_caches()
    with pytest.raises(RunError, match="scales=fp8_e4m3, but the layers have"):
        manifest(configured, tmp_path / "lost", *asked)


@pytest.mark.parametrize(
    "lost", ["model.layers.1.", "model.layers.1.self_attn.v_proj"], ids=["block", "layer"]
)
def test_a_placement_that_lost_layers_fails_the_run(
    lost: str, configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = adapter.find_lora_targets

    def fewer(*args: Any, **kwargs: Any) -> dict[str, str]:
        return {n: role for n, role in found(*args, **kwargs).items() if not n.startswith(lost)}

    monkeypatch.setattr(adapter, "find_lora_targets", fewer)
    with pytest.raises(RunError, match="contradicts the configuration: lora=all reached"):
        manifest(configured, tmp_path)
    assert not list(tmp_path.rglob("adapter*"))
