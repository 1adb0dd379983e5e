"""Settings that cannot be: refused by the real command before anything is loaded or written."""

from pathlib import Path

import pytest
from running import TINY, Case, run_case

pytestmark = pytest.mark.long

CASES = {
    "unknown_setting": Case(
        overrides=["train.max_step=20"], says=["'train.max_step'", "did you mean train.max_steps?"]
    ),
    "unknown_added_setting": Case(
        overrides=["+max_step=1"], says=["'max_step'", "did you mean train.max_steps?"]
    ),
    "unknown_flag": Case(overrides=["--fast"], says=["--fast", "run.py --help"]),
    "unreadable_override": Case(overrides=["foo bar"], says=["'foo bar'", "write KEY=VALUE"]),
    "unknown_option": Case(
        overrides=["dtype=nf44"], says=["dtype has no option 'nf44'", "the nearest is dtype=nf4"]
    ),
    "unknown_option_among_many": Case(
        overrides=["model=tinyy"], says=["'tinyy'", "the nearest is model=tiny", "run.py --help"]
    ),
    "what_options_start_from": Case(overrides=["eval=_base"], says=["eval=_base", "choose one"]),
    "number_for_an_option": Case(
        overrides=["train=5"], says=["a group takes the name of one option"]
    ),
    "sweep_without_m": Case(overrides=["dtype=nf4,fp4"], says=["dtype=nf4,fp4", "add -m"]),
    "wrong_type": Case(
        overrides=["train.max_steps=many"], says=["train.max_steps is 'many'", "a whole number"]
    ),
    "wrong_type_in_a_list": Case(
        overrides=["lora.layers=[first]"], says=["['first']", "a list of whole numbers or null"]
    ),
    "missing_value": Case(overrides=["data=local"], says=["data.path has no value"]),
    "out_of_range": Case(
        overrides=["train.micro_batch_size=0"], says=["train.micro_batch_size is 0", "at least 1"]
    ),
    "dq_with_16_bit": Case(
        overrides=["dtype=bf16", "dq=true"], says=["dq=true", "dtype=bf16", "choose dtype=nf4"]
    ),
    "full_fine_tuning_of_4_bit": Case(
        overrides=["lora=none"], says=["lora=none", "dtype=nf4", "use dtype=bf16"]
    ),
    "int4_in_bitsandbytes": Case(
        overrides=["dtype=int4", "dtype.backend=bnb"],
        says=["dtype=int4", "nf4, fp4, int8", "dtype.backend=simulated"],
    ),
    "blocksize_of_bitsandbytes": Case(
        overrides=["dtype.blocksize=48"], says=["dtype.blocksize=48", "32, 64, 128", "simulated"]
    ),
    "model_path": Case(
        overrides=["model=local", "model.path=nowhere"],
        says=["model.path=nowhere is not a folder", "config.json"],
    ),
    "data_path": Case(
        overrides=["data=local", "data.path=none.csv"], says=["data.path=none.csv is not a file"]
    ),
    "classes_of_glue": Case(
        overrides=["model=roberta_base", "data=glue", "data.tasks=[mnli]", "model.num_labels=2"],
        says=["model.num_labels is 2", "mnli needs model.num_labels=3"],
    ),
    "second_cell_of_a_sweep": Case(
        overrides=["model=tiny", "-m", "dtype=nf4,nf44"],
        says=["'nf44'", "the nearest is dtype=nf4"],
    ),
    # Root may write anywhere, so a file stands in the folder's place.
    "unwritable_results": Case(
        overrides=[*TINY, "results_dir=taken"],
        files={"taken": "a file"},
        says=["results_dir=taken cannot be written", "choose a folder you own"],
    ),
    "unwritable_results_in_proc": Case(
        overrides=[*TINY, "results_dir=/proc/results"], says=["results_dir=/proc/results cannot be"]
    ),
    "newer_results": Case(
        overrides=[*TINY, "results_dir=newer"],
        prepare=lambda folder: (
            (folder / "newer").mkdir()
            or (folder / "newer" / "store.json").write_text('{"format": 99}')
        ),
        says=["results_dir=newer has format 99", "reads up to 1", "another results_dir"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    outcome = run_case(CASES[name], tmp_path)
    sentence = outcome.refusal()
    for part in CASES[name].says:
        assert part in sentence
    assert not outcome.results.exists()
    assert outcome.out == ""
