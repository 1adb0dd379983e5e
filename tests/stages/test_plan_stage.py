"""The stage: what it prints, what it leaves in the store, what it refuses, what it never loads."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.figures import draw_figure
from analysis.publish import publish
from analysis.tables import fig6_memory
from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import ConfigError, StoreError
from qlora_repro.memory.prediction import expected_peak, predict_memory, predict_peak
from qlora_repro.memory.settings import plan_run
from qlora_repro.memory.tables import describe_card, describe_spread
from qlora_repro.records import MemoryPlan
from qlora_repro.stages.plan import run_plan
from qlora_repro.store.runs import read_json_lines

Configured = Callable[..., RunConfig]
ROOT = Path(__file__).resolve().parents[2]
PAPER = ("train.batch_size=1", "plan.length=512", "lora.dtype=bfloat16", "data=oasst1")


def test_the_command_answers_without_importing_torch(tmp_path: Path) -> None:
    words = ["stages=[plan]", "model=llama_65b", f"results_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "run.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "qlora_repro.memory.breakdown" in imported
    assert not {"torch", "transformers", "peft", "bitsandbytes"} & imported
    assert "65.286 B parameters, 4.127 bits" in done.stdout
    assert "48 GB card" in done.stdout


def test_the_plan_lies_in_the_store_as_it_was_printed(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configured("model=llama_7b", "stages=[plan]", f"results_dir={tmp_path}")
    found = run_plan(cfg)
    said = capsys.readouterr().out
    (path,) = tmp_path.glob("llama_7b-nf4-dq-all-r64-*/plan-*.jsonl")
    assert [MemoryPlan(**row) for row in read_json_lines(path)] == [found]
    assert f"{found.peak / 1e9:.2f}" in said
    assert str(path.name) in said


def test_a_plan_is_published_though_nothing_ran(configured: Configured, tmp_path: Path) -> None:
    root, out = tmp_path / "results", tmp_path / "evidence"
    run_plan(configured("model=llama_7b", "stages=[plan]", f"results_dir={root}", *PAPER))
    (said,) = publish(root, out)
    assert said.startswith("llama_7b-nf4-dq-all-r64-")
    assert said.endswith(": a plan")
    assert len(fig6_memory.load_like_plans(root)) == 1
    live, packed = (fig6_memory.load_like_plans(results) for results in (root, out))
    assert packed.drop(columns="folder").equals(live.drop(columns="folder"))


def test_plan_goes_alone(configured: Configured, tmp_path: Path) -> None:
    cfg = configured("model=tiny", "stages=[plan,train]", f"results_dir={tmp_path}")
    with pytest.raises(ConfigError, match=r"stages is \[plan,train\], and plan goes alone"):
        run_plan(cfg)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lora.dtype=int8"], "lora.dtype is 'int8', and must be one of float32, bfloat16"),
        (["plan.length=0"], "plan.length is 0, and must be at least 1"),
        (["plan.gpus=[24,0]"], "plan.gpus is 0, and must be at least 1"),
        (["plan.bus=0"], "plan.bus is 0.0, and must be more than 0"),
        (["plan.memory=-1"], "plan.memory is -1.0, and must be more than 0"),
        (["plan.reserve=-1"], "plan.reserve is -1.0, and must be at least 0"),
        (["lora=none"], "lora=none trains every weight, and a dtype=nf4 base is frozen"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    words: list[str], says: str, configured: Configured
) -> None:
    with pytest.raises(ConfigError) as error:
        plan_run(configured("stages=[plan]", *words))
    assert str(error.value).startswith(says)


def test_a_run_is_held_against_the_longest_row_that_it_saw(configured: Configured) -> None:
    cfg = configured("model=smollm2_135m")
    assert expected_peak(cfg, {"longest": 100}) == predict_peak(cfg, length=100)
    assert predict_peak(cfg, length=100) < predict_memory(cfg).peak
    assert expected_peak(cfg, None) is None
    assert expected_peak(cfg, {}) is None  # a record from before lengths were noted


def test_figure_6_has_the_papers_bars_and_a_reason_for_each_that_is_far(
    configured: Configured, tmp_path: Path
) -> None:
    for size in (7, 13, 33, 65):
        words = (f"model=llama_{size}b", "stages=[plan]", f"results_dir={tmp_path}")
        run_plan(configured(*words, *PAPER))
    table = fig6_memory.build_table(tmp_path)
    assert len(table.frame) == 16
    totals = table.frame[table.frame["bar"] == "total"]
    assert list(totals["paper, GB"]) == ["6.90", "11.30", "24.70", "45.00"]
    assert all(abs(float(share)) < 13 for share in totals["difference, %"])
    adapters = table.frame[table.frame["bar"] == "adapters"]["difference, %"].astype(float)
    assert adapters.between(10.5, 11.5).all()  # 1 / 0.90
    far = set(table.frame.loc[table.frame["difference, %"].astype(float).abs() > 10, "bar"])
    assert far == {note.partition(":")[0] for note in table.notes[:-1]}
    figure = draw_figure("fig6_memory", tmp_path)
    heights = [patch.get_height() for patch in figure.axes[0].patches if patch.get_height()]
    assert sum(heights) == pytest.approx(
        sum(totals["paper, GB"].astype(float)) + sum(totals["ours, GB"].astype(float)), abs=0.03
    )


def test_figure_6_without_plans_says_what_makes_them(tmp_path: Path) -> None:
    assert fig6_memory.build_table(tmp_path).frame["ours, GB"].isna().all()
    with pytest.raises(StoreError, match="experiments=fig6_memory makes them"):
        draw_figure("fig6_memory", tmp_path)


def test_plans_unlike_the_papers_are_left_out(configured: Configured, tmp_path: Path) -> None:
    for word in ("lora.r=8", "dtype=fp4", "train.gradient_checkpointing=false"):
        run_plan(
            configured("model=llama_7b", "stages=[plan]", f"results_dir={tmp_path}", *PAPER, word)
        )
    assert fig6_memory.load_like_plans(tmp_path).empty


def test_full_finetuning_of_7b_fits_80_gb_with_8_bit_moments_and_what_does_not_is_spread(
    configured: Configured,
) -> None:
    full = ("model=llama_7b", "lora=none", "dtype=bf16", "plan.length=512")
    cfg = configured(*full, "train=full_8bit")
    assert "training holds it, " in describe_card(predict_memory(cfg), 80, cfg.plan)
    assert describe_spread(predict_memory(cfg), cfg.plan) == []
    plain = configured(*full, "train=full", "train.optim=adamw_torch")
    assert "training does not hold it" in describe_card(predict_memory(plain), 80, plain.plan)
    (line,) = describe_spread(predict_memory(plain), plain.plan)
    assert line.endswith("model.device=spread: at least 2 for training")
    large = configured("model=llama_65b", "dtype=bf16", "plan.length=512")
    (line,) = describe_spread(predict_memory(large), large.plan)
    assert line.endswith("at least 2 for training, at least 2 for inference")
