"""One run in several processes is that run in one: the same curve, records, resume; one voice."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from forking import fork
from lm_eval.models.huggingface import HFLM
from ranked import Ranks
from running import PATIENCE, RUN, environment
from torch.distributed.tensor import DTensor

from qlora_repro import session
from qlora_repro.distributed import fsdp
from qlora_repro.errors import OutOfMemory
from qlora_repro.eval import held_out, perplexity
from qlora_repro.stages import evaluate, generate
from qlora_repro.stages import train as training
from qlora_repro.sweep.replay import compare_runs
from qlora_repro.train import callbacks
from qlora_repro.train.dropout import DropoutSeeding
from qlora_repro.train.trainer import TrainResult

pytestmark = pytest.mark.long

SMALL = [
    *("model=tiny", "eval.n=1", "data.rows=40", "lora.r=4", "lora.dropout=0.1"),
    *("train.max_steps=6", "train.batch_size=8", "train.micro_batch_size=2", "train.save_steps=2"),
    "train.gradient_checkpointing=true",
]
TRAINS = [*SMALL, "stages=[train]"]
CLOSE = 1e-4
OF_THE_PROCESSES = {"seconds", "tokens_per_second", "peak_memory", "processes", "backend"}


def folders(root: Path) -> list[Path]:
    return sorted((root / "outputs" / "results").glob("tiny-*"))


def tuned(root: Path) -> Path:
    return next(path for path in folders(root) if "untuned" not in path.name)


def trained(root: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((tuned(root) / "train.json").read_text())
    return record


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    run = fork(folder, *SMALL)
    assert run.end() == 0, run.output
    return folder


def assert_the_same_records(many: Path, alone: Path) -> None:
    """The same cells, files and records; numbers to 1e-4."""
    assert [path.name for path in folders(many)] == [path.name for path in folders(alone)]
    for one, other in zip(folders(alone), folders(many), strict=True):
        assert {path.name for path in other.iterdir()} == {path.name for path in one.iterdir()}
        for comparison in compare_runs(one, other):
            if not comparison.file.startswith("adapter"):  # by digest: another order of sums
                assert comparison.others == 0, comparison
                assert comparison.largest < CLOSE, comparison


def assert_the_same_run(many: Path, alone: Path, **differing: Any) -> None:
    """The same cells, files and records; numbers to 1e-4, and times and speeds left out."""
    assert_the_same_records(many, alone)
    steps = (tuned(many) / "steps.jsonl").read_text().splitlines()
    assert len(steps) == 6
    ours, theirs = trained(many), trained(alone)
    assert {key: ours[key] for key in differing} == differing
    rest = {f.name for f in fields(TrainResult)} - OF_THE_PROCESSES - {*differing, "steps"}
    assert {key: ours[key] for key in rest} == {key: theirs[key] for key in rest}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in two processes of torchrun."""
    folder = tmp_path_factory.mktemp("two")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(RUN), *SMALL],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 6/6") == 1
    return folder


def test_torchrun_with_two_processes_gives_the_curve_and_the_records_of_one(
    alone: Path, two: Path
) -> None:
    assert_the_same_run(two, alone, processes=2, backend="gloo", sharded=False)
    assert trained(alone)["backend"] is None
    manifest = json.loads((tuned(two) / "manifest.json").read_text())
    assert manifest["training"]["processes"] == 2
    assert 0.0 < trained(alone)["padded"] < 0.5  # the rows of a micro-batch are of unequal length


@pytest.fixture
def _as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let accelerate take the path that it takes with several GPUs, which refuses shards in DDP."""
    monkeypatch.setattr(Accelerator, "multi_device", property(lambda self: self.num_processes > 1))


@pytest.mark.usefixtures("_as_on_gpus")
def test_a_divided_4_bit_base_gives_the_curve_and_the_records_of_a_whole_one(
    alone: Path, tmp_path: Path
) -> None:
    ranks = Ranks(tmp_path, *SMALL, "train=fsdp")
    assert ranks.end() == {0: 0, 1: 0}, ranks.output(0)
    assert_the_same_run(tmp_path, alone, processes=2, backend="gloo", sharded=True)


@pytest.mark.usefixtures("_as_on_gpus")
def test_rank_0_alone_reads_a_base_and_the_others_hold_a_block_beside_their_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[Any] = []
    load, shard, divide = session.load_base, fsdp.shard_model, fsdp.fully_shard

    def loading(*words: Any, **named: Any) -> Any:
        with (tmp_path / "read").open("a") as file:
            file.write(f"rank {os.environ['RANK']}\n")
        return load(*words, **named)

    def sharding(model: Any, *words: Any, **named: Any) -> Any:
        models.append(model)
        return shard(model, *words, **named)

    def dividing(module: Any, **named: Any) -> Any:
        frozen = [weight for weight in models[0].parameters() if not weight.requires_grad]
        here = [w for w in frozen if w.device.type != "meta" and not isinstance(w, DTensor)]
        with (tmp_path / f"held by {os.environ['RANK']}").open("a") as file:
            file.write(f"{sum(w.nbytes for w in here)}\n")
        return divide(module, **named)

    monkeypatch.setattr(session, "load_base", loading)
    monkeypatch.setattr(fsdp, "shard_model", sharding)
    monkeypatch.setattr(fsdp, "fully_shard", dividing)
    ranks = Ranks(tmp_path, *TRAINS, "train=fsdp", "train.max_steps=2")
    assert ranks.end() == {0: 0, 1: 0}, ranks.output(0)
    assert (tmp_path / "read").read_text() == "rank 0\n"
    first, second, rest = map(int, (tmp_path / "held by 1").read_text().split())
    assert 0 < first == second  # a block at a time; then the embeddings
    whole = int((tmp_path / "held by 0").read_text().split()[0])
    assert whole >= first + second + rest


@pytest.mark.usefixtures("_as_on_gpus")
def test_a_divided_base_is_scored_and_asked_by_all_processes_and_answers_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noting(work: Any) -> Any:
        def noted(model: Any, *words: Any, **named: Any) -> Any:
            divided = sum(isinstance(weight, DTensor) for weight in model.parameters())
            with (tmp_path / f"rank {os.environ.get('RANK')}").open("a") as file:
                file.write(f"{work.__name__} {divided > 0}\n")
            return work(model, *words, **named)

        return noted

    monkeypatch.setattr(evaluate, "evaluate_model", noting(evaluate.evaluate_model))
    monkeypatch.setattr(generate, "generate_answers", noting(generate.generate_answers))
    asks = ("stages=[train,eval,generate]", "generate=procedural", "generate.limit=3")
    words = (*SMALL, *asks, "generate.max_new_tokens=4", "train.max_steps=2", "eval.rouge=true")
    words = (
        *words,
        "data.holdout=8",
        "eval.max_new_tokens=4",
        "train.gradient_checkpointing=false",
    )
    alone, many = tmp_path / "alone", tmp_path / "many"
    for folder in (alone, many):
        folder.mkdir()
    assert fork(alone, *words).end() == 0
    ranks = Ranks(many, *words, "train=fsdp")
    assert ranks.end() == {0: 0, 1: 0}, ranks.output(0) + ranks.output(1)
    for rank in range(2):
        noted = (tmp_path / f"rank {rank}").read_text()
        assert noted == "evaluate_model True\n" * 2 + "generate_answers True\n"
    for one, other in zip(folders(alone), folders(many), strict=True):
        differing = [file.file for file in compare_runs(one, other) if file.largest >= CLOSE]
        assert [name for name in differing if not name.startswith("adapter")] == []
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def counted(tmp_path: Path) -> dict[str, dict[str, int]]:
    """Return how much each process was asked, by process and kind of question."""
    asked: dict[str, dict[str, int]] = {}
    for path in tmp_path.glob("asked of *"):
        counts = asked.setdefault(path.name.removeprefix("asked of "), {})
        for line in path.read_text().splitlines():
            kind, number = line.split()
            counts[kind] = counts.get(kind, 0) + int(number)
    return asked


def test_processes_that_each_hold_the_model_share_its_questions_and_answer_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(owner: Any, name: str, size: Callable[..., int]) -> None:
        work = getattr(owner, name)

        def counting(*words: Any, **named: Any) -> Any:
            with (tmp_path / f"asked of {os.environ.get('RANK')}").open("a") as file:
                file.write(f"{name} {size(*words)}\n")
            return work(*words, **named)

        monkeypatch.setattr(owner, name, counting)

    count(session, "load_base", lambda *_: 1)
    for name in ("loglikelihood", "generate_until"):
        count(HFLM, name, lambda lm, requests: len(requests))
    count(perplexity, "compare_windows", lambda model, reference, windows: len(windows))
    count(perplexity, "window_losses", lambda model, windows: len(windows))
    count(held_out, "generate_tokens", lambda model, tokenizer, read: len(read["input_ids"]))
    count(generate, "generate_answers", lambda model, tokenizer, asked, cfg: len(asked))
    (tmp_path / "text").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    words = (
        *(*SMALL, "eval.n=2", "train.max_steps=2", "data.holdout=16", "eval.batch_size=2"),
        *("train.gradient_checkpointing=false", "eval.rouge=true", "eval.max_new_tokens=4"),
        *(f"eval.perplexity_file={tmp_path / 'text'}", "eval.perplexity_window=32"),
        *("eval.reference=true", "stages=[train,eval,generate]", "generate=procedural"),
        *("generate.limit=8", "generate.max_new_tokens=4"),
    )
    alone, many = tmp_path / "alone", tmp_path / "many"
    for folder in (alone, many):
        folder.mkdir()
    assert fork(alone, *words).end() == 0
    ranks = Ranks(many, *words)
    assert ranks.end() == {0: 0, 1: 0}, ranks.output(0) + ranks.output(1)
    asked = counted(tmp_path)
    for kind in sorted({*asked["None"]} - {"load_base"}):
        whole, shares = asked["None"][kind], [asked[rank].get(kind, 0) for rank in ("0", "1")]
        assert (kind, sum(shares)) == (kind, whole)
        assert min(shares) >= 0.4 * whole, (kind, shares)
    # once for scores and training; on a CPU, DDP moves the base, and rank 1 reads it again
    assert [asked[rank]["load_base"] for rank in ("None", "0", "1")] == [1, 1, 2]
    assert_the_same_records(many, alone)
    assert Ranks(many, *words, "-m").end() == {0: 0, 1: 0}
    assert counted(tmp_path) == asked  # what is finished is asked of nobody


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_while_scoring_in_one_process_ends_all_with_its_sentence_once(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = HFLM.loglikelihood

    def broken(lm: Any, requests: Any, **named: Any) -> Any:
        if os.environ["RANK"] == str(failing):
            raise OutOfMemory("out of memory: a made-up lack")
        return answer(lm, requests, **named)

    monkeypatch.setattr(HFLM, "loglikelihood", broken)
    words = [word for word in SMALL if not word.startswith("train.")]
    ranks = Ranks(tmp_path, *words, "train.max_steps=0", "stages=[eval]")
    assert 0 not in ranks.end().values(), ranks.output(0) + "=====" + ranks.output(1)
    both = ranks.output(0) + ranks.output(1)
    assert both.count("error: ") == 1
    assert "error: out of memory: a made-up lack" in ranks.output(failing)
    assert "Traceback" not in both
    note = json.loads(next(tmp_path.rglob("failed.json")).read_text())
    assert note["why"] == "out of memory: a made-up lack"
    assert not list(tmp_path.rglob("metrics-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("_as_on_gpus")
@pytest.mark.parametrize("base", [("dtype.backend=simulated",), ("dtype=bf16", "dq=false")])
def test_a_divided_16_bit_base_gives_the_curve_and_the_records_of_a_whole_one(
    base: tuple[str, ...], tmp_path: Path
) -> None:
    alone, many = tmp_path / "alone", tmp_path / "many"
    for folder in (alone, many):
        folder.mkdir()
    assert fork(alone, *SMALL, *base).end() == 0
    ranks = Ranks(many, *SMALL, "train=fsdp", *base)
    assert ranks.end() == {0: 0, 1: 0}, ranks.output(0)
    assert_the_same_run(many, alone, processes=2, backend="gloo", sharded=True)


def test_a_sweep_runs_each_cell_in_all_processes_and_rank_0_alone_tracks_and_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tracker = callbacks.open_tracker

    def seen(*words: Any, **named: Any) -> Any:
        with (tmp_path / "tracked").open("a") as file:
            file.write(f"rank {os.environ['RANK']}\n")
        return open_tracker(*words, **named)

    monkeypatch.setattr(callbacks, "open_tracker", seen)
    ranks = Ranks(tmp_path, *TRAINS, "train.max_steps=2", "-m", "seed=0,1")
    assert ranks.end() == {0: 0, 1: 0}, ranks.output(0)
    assert ranks.output(0).count("step 2/2") == 2
    assert ranks.output(1) == ""
    done = [json.loads(path.read_text()) for path in tmp_path.rglob("train.json")]
    assert [record["processes"] for record in done] == [2, 2]
    assert (tmp_path / "tracked").read_text() == "rank 0\n" * 2


@pytest.mark.usefixtures("_as_on_gpus")
@pytest.mark.slow
def test_a_killed_run_with_a_divided_base_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert Ranks(whole, *TRAINS, "train=fsdp").end() == {0: 0, 1: 0}
    assert_taken_up(cut, whole, "train=fsdp", monkeypatch=monkeypatch)


def test_a_run_whose_process_was_killed_is_taken_up_and_ends_with_the_same_bytes(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_taken_up(tmp_path, two, monkeypatch=monkeypatch)


def assert_taken_up(
    tmp_path: Path, whole: Path, *words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill rank 1 in a run's fourth step, and run it again: `whole` is the run in one go."""
    begin = DropoutSeeding.on_step_begin

    def killed(self: DropoutSeeding, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if os.environ["RANK"] == "1" and state.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(self, args, state, control, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(DropoutSeeding, "on_step_begin", killed)
        ranks = Ranks(tmp_path, *TRAINS, *words)
        codes = ranks.end()
    assert codes[1] == -signal.SIGKILL
    assert codes[0] > 0
    errors = re.findall(r"^error: .*", ranks.output(0) + ranks.output(1), flags=re.MULTILINE)
    assert len(errors) == 1
    assert "the same command goes on from the last checkpoint" in errors[0]
    again = Ranks(tmp_path, *TRAINS, *words)
    assert again.end() == {0: 0, 1: 0}, again.output(0)
    assert trained(tmp_path)["resumed_from"] == 2
    for name in ("steps.jsonl", "adapter/adapter_model.safetensors"):
        assert (tuned(tmp_path) / name).read_bytes() == (tuned(whole) / name).read_bytes()


@pytest.mark.parametrize("failing", [0, 1])
def test_what_fails_in_one_process_ends_all_with_its_sentence_once_and_is_on_record(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training.train_model

    def broken(model: Any, job: Any, **rest: Any) -> Any:
        if os.environ["RANK"] == str(failing):
            raise OutOfMemory("out of memory: a made-up lack")
        return train(model, job, **rest)

    monkeypatch.setattr(training, "train_model", broken)
    ranks = Ranks(tmp_path, *TRAINS, "train.max_steps=2")
    codes = ranks.end()
    assert 0 not in codes.values()
    both = ranks.output(0) + ranks.output(1)
    assert both.count("error: ") == 1
    assert "error: out of memory: a made-up lack" in ranks.output(failing)
    assert "Traceback" not in both
    note = json.loads((tuned(tmp_path) / "failed.json").read_text())
    assert note["why"] == "out of memory: a made-up lack"
    assert not list(tmp_path.rglob("train.json"))


def test_a_failed_cell_ends_a_sweep_whose_processes_lost_each_other(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, *TRAINS, "-m", "train.lr=inf,0.001")
    assert ranks.end()[0] == 1
    assert ranks.output(0).count("the loss is nan") >= 1
    assert "the processes lost each other in a cell before" in ranks.output(0)
    assert not list(tmp_path.rglob("train.json"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train.micro_batch_size=8"], "write train.micro_batch_size=4 or a divisor of it"),
        (["train.max_stps=3"], "there is no setting 'train.max_stps'"),
    ],
)
def test_what_is_refused_is_refused_once(words: list[str], sentence: str, tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, *TRAINS, *words)
    assert ranks.end()[0] == 1
    both = ranks.output(0) + ranks.output(1)
    assert both.count("\n") == both.count("error: ") == 1
    assert sentence in both
