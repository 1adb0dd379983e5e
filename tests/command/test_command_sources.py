"""Models and data that cannot be used: refused by the real command when it comes to them."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from running import TINY, Case, run_case

pytestmark = pytest.mark.long

LOCAL = [*TINY, "data=local", "data.path=rows.csv"]


def truncated_checkpoint(folder: Path) -> None:
    """A checkpoint whose download was cut off."""
    from qlora_repro.model.tiny import make_tiny_checkpoint

    shutil.copytree(make_tiny_checkpoint("causal"), folder / "model")
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def altered_conversion(folder: Path) -> None:
    """The embedded model's cache, of which one file is not what was written."""
    from qlora_repro.model.embedded import FOLDER, ORIGIN

    converted = folder / "cache" / "qlora_repro" / FOLDER
    converted.mkdir(parents=True)
    (converted / "model.safetensors").write_bytes(b"weights with a flipped bit")
    files = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    (converted / ORIGIN).write_text(json.dumps({"files": files}))


def altered_package(folder: Path) -> None:
    """The package that ships the embedded model, its file cut off; nothing is converted yet."""
    from qlora_repro.model.embedded import GGUF, PACKAGE

    package = folder / "site" / PACKAGE
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / GGUF).write_bytes(b"GGUF")


CASES = {
    "hub_model": Case(
        overrides=["model=smollm2_360m", "eval=none"],
        env={"HF_HOME": "{folder}/hub"},
        says=["cannot be reached", "config.json of HuggingFaceTB/SmolLM2-360M", "run hf download"],
    ),
    "hub_dataset": Case(
        overrides=[*TINY, "data=alpaca"],
        env={"HF_HOME": "{folder}/hub"},
        says=["yahma/alpaca-cleaned", "could not be reached", "run `hf download", "data.path=DIR"],
    ),
    "checkpoint_cut_off": Case(
        overrides=["model=local", "model.path=model", *TINY[1:]],
        prepare=truncated_checkpoint,
        says=["model/model.safetensors is corrupted or cut short", "fetch it again"],
    ),
    "conversion_of_another_hash": Case(
        overrides=["eval=none"],
        env={"XDG_CACHE_HOME": "{folder}/cache"},
        prepare=altered_conversion,
        says=["model.safetensors is not the file that was written there", "sha256", "delete"],
    ),
    "gguf_of_another_hash": Case(
        overrides=["eval=none"],
        env={"XDG_CACHE_HOME": "{folder}/cache", "PYTHONPATH": "{folder}/site"},
        prepare=altered_package,
        says=["sha256", "and not b179c9523d0e", "pip install --no-deps --force-reinstall"],
    ),
    "empty_dataset": Case(
        overrides=LOCAL, files={"rows.csv": "source,target\n"}, says=["rows.csv has no rows"]
    ),
    "missing_column": Case(
        overrides=LOCAL,
        files={"rows.csv": "question,target\nWhat?,That.\n"},
        says=["rows.csv, row 1", "no column 'source' among question, target"],
    ),
    "empty_target": Case(
        overrides=LOCAL,
        files={"rows.csv": "source,target\nWhat?,That.\nWho?,\n"},
        says=["rows.csv, row 2", "'target' is empty", "needs an answer to learn"],
    ),
    "every_row_truncated": Case(
        overrides=[*TINY, "data.max_source_len=3"],
        says=["100.0% of 640 rows", "data.max_source_len=3", "allows 5.0%", "raise one"],
    ),
    "cuda_that_is_not_there": Case(
        overrides=[*TINY, "model.device=cuda"],
        env={"CUDA_VISIBLE_DEVICES": ""},
        says=["model.device=cuda asks for CUDA", "use model.device=cpu"],
    ),
    "loss_that_is_not_a_number": Case(
        overrides=[*TINY, "train.lr=1e30", "train.max_grad_norm=1e30"],
        says=["the loss is nan at step 2", "lower train.lr"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_in_one_sentence_and_leaves_the_store_whole(name: str, tmp_path: Path) -> None:
    outcome = run_case(CASES[name], tmp_path)
    sentence = outcome.refusal()
    for part in CASES[name].says:
        assert part in sentence
    outcome.assert_nothing_half_written()
