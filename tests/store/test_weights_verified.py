"""Weights and run folders that are not what was written are named, and nothing is made of them."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from qlora_repro.config.schema import DtypeConfig, RunConfig
from qlora_repro.errors import ConfigError, ModelError, StoreError
from qlora_repro.eval.held_out import evaluate_classifier
from qlora_repro.eval.lm_eval import evaluate_tasks
from qlora_repro.eval.perplexity import TokenLosses
from qlora_repro.model.load import load_base
from qlora_repro.model.tiny import make_tiny_checkpoint
from qlora_repro.records import CellState
from qlora_repro.session import ModelSession
from qlora_repro.stages.merge import run_merge
from qlora_repro.store.cell import find_cell
from qlora_repro.store.integrity import CHECKSUMS, describe_corruption, write_checksums
from qlora_repro.store.load import load_runs
from qlora_repro.store.runs import open_store, read_failure
from qlora_repro.sweep.replay import compare_runs
from qlora_repro.sweep.run_cell import run_cell
from qlora_repro.train.checkpoint import RUN_NAME, find_newest_checkpoint, save_atomically
from tests.fixtures.model_sections import model_section

OLD = Path(__file__).parents[1] / "fixtures" / "old_results"
RUN = "tiny-nf4-dq-qv-r1-procedural-s0-f528d5358699"
UNTUNED = "tiny-nf4-dq-untuned-4d93ad7fa4b6"
SMALL = ("model=tiny", "train.max_steps=2", "data.rows=8", "lora=qv", "lora.r=1")
EVAL = ("eval.n=1", "eval.tasks=[procedural_mc]")
Configured = Callable[..., RunConfig]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "results"))


def flip_bit(path: Path, *, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def damage_weights(adapter: Path, fault: str) -> None:
    if fault == "flipped bit":
        flip_bit(adapter / "adapter_model.safetensors")
    else:
        (adapter / CHECKSUMS).unlink()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("flipped bit", "adapter_model.safetensors holds other bytes than were written"),
        ("no checksums", "has no whole.json and cannot be verified"),
    ],
)
def test_damaged_weights_are_neither_scored_nor_merged(
    results: Path, configured: Configured, fault: str, words: str
) -> None:
    damage_weights(results / RUN / "adapter", fault)
    next((results / RUN).glob("metrics-*.jsonl")).unlink()
    cfg = configured(*SMALL, *EVAL, f"results_dir={results}", "stages=[eval]")
    outcome = run_cell(cfg, rerun="")
    assert outcome.state == CellState.REFUSED
    assert words in outcome.why
    assert "; add train to stages" in outcome.why
    with pytest.raises(ConfigError, match=words):
        find_cell(cfg).check_trained("ask")
    with (
        ModelSession(cfg, results / RUN) as session,
        pytest.raises(StoreError, match=f"{words}; add train to stages"),
    ):
        run_merge(session)
    assert not (results / RUN / "merged").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda w: w * math.nan, r"not finite.* in base_model.*lora_A"),
        (lambda w: torch.cat([w, w]), "is no adapter for this model .*size mismatch"),
    ],
)
def test_an_adapter_with_nan_or_another_shape_is_refused_by_name(
    results: Path,
    configured: Configured,
    damage: Callable[[torch.Tensor], torch.Tensor],
    words: str,
) -> None:
    path = results / RUN / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    weights[min(weights)] = damage(weights[min(weights)])
    save_file(weights, path)
    write_checksums(path.parent)
    cfg = configured(*SMALL, f"results_dir={results}")
    with ModelSession(cfg, results / RUN) as session, pytest.raises(ModelError, match=words):
        session.tuned()


def test_an_adapter_that_lacks_a_weight_is_refused(results: Path, configured: Configured) -> None:
    path = results / RUN / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path)
    write_checksums(path.parent)
    cfg = configured(*SMALL, f"results_dir={results}")
    with ModelSession(cfg, results / RUN) as session, pytest.raises(ModelError, match="not in"):
        session.tuned()


@pytest.mark.parametrize("dtype", ["nf4", "int8", "bf16"])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_base_with_nan_or_another_shape_is_refused_by_name(
    tmp_path: Path, dtype: str, name: str
) -> None:
    mine = Path(shutil.copytree(make_tiny_checkpoint("causal"), tmp_path / "mine"))
    backend = "none" if dtype == "bf16" else "bnb"
    section = DtypeConfig(dtype, 64, "float32", backend, "dynamic8", None)
    weights = load_file(mine / "model.safetensors")
    sound = weights[name].clone()
    weights[name].flatten()[3] = math.nan
    save_file(weights, mine / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"{mine} has values that are not finite .* in {name}"):
        load_base(model_section(mine), section, dq=False)
    weights[name] = torch.cat([sound, sound[:1]])
    save_file(weights, mine / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"{name}.* in another shape"):
        load_base(model_section(mine), section, dq=False)


def test_scores_of_logits_that_are_not_finite_are_missing_and_counted(
    configured: Configured,
) -> None:
    cfg = configured("model=tiny", "eval.n=1", "eval.tasks=[procedural_mc,procedural_exact]")
    loaded = load_base(cfg.model, cfg.dtype, dq=True)
    loaded.model.lm_head.register_forward_hook(lambda m, i, logits: logits * math.nan)
    metrics, answers = evaluate_tasks(loaded.model, loaded.tokenizer, cfg.eval, run_id="r")
    assert all(answer.value is None for answer in answers)
    scores = {(m.task, m.name): m.value for m in metrics}
    assert scores["procedural_mc", "acc"] is scores["procedural_exact", "exact_match"] is None
    assert scores["procedural_mc", "acc_missing"] == 1
    assert scores["procedural_exact", "exact_match_missing"] == 1


def test_a_loss_that_is_no_number_is_missing_and_counted() -> None:
    losses = TokenLosses(losses=[1.0, math.nan, 3.0, math.inf], ids=[5, 6, 7, 8])
    values = {m.name: (m.value, m.n) for m in losses.metrics(run_id="r")}
    assert values["perplexity"] == (pytest.approx(math.exp(2)), 2)
    assert values["nats_per_token_missing"] == (0.5, 4)
    assert [answer.value for answer in losses.answers(run_id="r")] == [1.0, None, 3.0, None]


def test_weights_are_compared_by_their_bytes(results: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(results / RUN, tmp_path / "again"))
    assert all(each.same for each in compare_runs(results / RUN, again))
    flip_bit(again / "adapter" / "adapter_model.safetensors")
    differing = [each.file for each in compare_runs(results / RUN, again) if not each.same]
    assert differing == ["adapter, by digest"]
    (results / RUN / "adapter" / "adapter_model.safetensors").unlink()  # as a published run
    assert [e.file for e in compare_runs(results / RUN, again) if not e.same] == differing


def test_swapped_folders_are_refused_and_named(results: Path, configured: Configured) -> None:
    other = results / "tiny-nf4-dq-qv-r1-procedural-s1-0123456789ab"
    (results / RUN).rename(other)
    words = f"holds run {RUN[-12:]}, as its manifest.json says, and not 0123456789ab"
    with pytest.raises(StoreError, match=words):
        load_runs(results)
    other.rename(results / "spare")
    (results / UNTUNED).rename(results / RUN)
    outcome = run_cell(configured(*SMALL, *EVAL, f"results_dir={results}"), rerun="")
    assert outcome.state == CellState.REFUSED
    assert f"{results / RUN} holds run {UNTUNED[-12:]}" in outcome.why


def test_a_checkpoint_of_another_run_is_not_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "run-a" / "checkpoints" / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / RUN_NAME).write_text("run-a")
    write_checksums(checkpoint)
    assert find_newest_checkpoint(checkpoint.parent) == checkpoint
    (tmp_path / "run-a").rename(tmp_path / "run-b")
    assert find_newest_checkpoint(tmp_path / "run-b" / "checkpoints") is None
    output = " ".join(capsys.readouterr().out.split())
    assert "was written by run-a, whose folder was renamed or swapped" in output


def test_a_flipped_bit_anywhere_in_the_checksums_ends_in_a_sentence(results: Path) -> None:
    ledger, record = results / RUN / CHECKSUMS, results / RUN / "train.json"
    content = ledger.read_bytes()
    sound = json.loads(content)["train.json"]
    for at in range(content.index(b'"train.json"'), content.index(sound["sha256"].encode()) + 64):
        flip_bit(ledger, at=at)
        assert describe_corruption(record) is None or isinstance(describe_corruption(record), str)
        if json.loads(content) == _parsed(ledger):  # white space
            assert describe_corruption(record) is None
        ledger.write_bytes(content)


def _parsed(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_mark_of_the_store_that_is_not_utf8_is_refused(results: Path) -> None:
    (results / "store.json").write_bytes(b'{"format": "\xff"}')
    with pytest.raises(StoreError, match=r"store.json is not a store's mark"):
        open_store(results)


@pytest.mark.parametrize("note", [{}, {"state": "exploded"}, {"state": ["a"], "why": None}])
def test_a_failure_without_a_known_state_is_a_failure(tmp_path: Path, note: dict) -> None:
    from analysis.status import State, list_statuses

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "failed.json").write_text(json.dumps(note))
    assert [status.state for status in list_statuses(tmp_path)] == [State.FAILED]
    failure = read_failure(tmp_path / "run")
    assert failure is not None
    assert failure["state"] == CellState.FAILED


def test_published_weights_may_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        save_file({"a": torch.zeros(1)}, folder / "a.safetensors")
        (folder / "a.safetensors").chmod(0o600)

    save_atomically(save, tmp_path / "adapter")
    readable = (tmp_path / "adapter").stat().st_mode & 0o444
    assert (tmp_path / "adapter" / "a.safetensors").stat().st_mode & 0o444 == readable


def test_a_classifier_whose_logits_are_no_numbers_has_no_score() -> None:
    class Broken(torch.nn.Linear):
        config = SimpleNamespace(num_labels=2)
        device = "cpu"

        def forward(self, **inputs: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=torch.tensor([[math.nan, 1.0], [0.0, 1.0]]))

    class Inputs(dict):  # what a tokenizer returns
        def to(self, device: str) -> "Inputs":
            return self

    from qlora_repro.records import Example

    rows = [Example(source=text, target="1") for text in "ab"]
    metrics, answers = evaluate_classifier(
        Broken(1, 1), lambda *a, **k: Inputs(), rows, run_id="r", batch_size=2
    )
    assert [answer.value for answer in answers] == [None, 1.0]
    assert {m.name: m.value for m in metrics} == {"acc": 1.0, "acc_missing": 0.5}
