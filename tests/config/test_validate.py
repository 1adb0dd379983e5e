"""What a configuration may not hold, and what is settled without a word."""

import json
from collections.abc import Callable
from dataclasses import asdict
from fnmatch import fnmatchcase

import pytest
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from qlora_repro.config import validate
from qlora_repro.config.messages import describe_unknown_setting
from qlora_repro.config.schema import RunConfig, rebuild_config, setting_types
from qlora_repro.config.unread import READS
from qlora_repro.errors import ConfigError

Configured = Callable[..., RunConfig]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_dq_is_dropped_where_it_is_only_the_default_and_refused_where_it_was_written(
    dtype: str, configured: Configured
) -> None:
    assert configured(f"dtype={dtype}").dq is False
    with pytest.raises(ConfigError, match=f"dq=true does not go with dtype={dtype}"):
        configured(f"dtype={dtype}", "dq=true")


def test_a_gpu_by_number_is_refused_with_the_variable_that_chooses_one(
    configured: Configured,
) -> None:
    with pytest.raises(ConfigError, match="write CUDA_VISIBLE_DEVICES=1 before the command"):
        configured("model=tiny", "model.device=cuda:1")


def test_only_causal_models_are_spread(configured: Configured) -> None:
    with pytest.raises(ConfigError, match=r"is for model\.kind=causal, and this one is"):
        configured("model=t5_lm_small", "model.device=spread", "eval=none", "stages=[train]")
    assert configured("model=llama_65b", "model.device=spread", "stages=[plan]")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=llama_7b", "stages=[plan]"),
        ("lora.layers=[0,1]", "data.tasks=[chain_sum]"),
        ("judge=gpt4_pairwise", "judge.request={temperature:0}"),
    ],
)
def test_a_checked_configuration_comes_back_from_json_as_it_was(
    words: tuple[str, ...], configured: Configured
) -> None:
    cfg = configured(*words)
    assert rebuild_config(json.loads(json.dumps(asdict(cfg)))) == cfg


@pytest.mark.parametrize("dtype", ["int4", "fp4", "fp4_e2m1", "fp4_e3m0", "nf4", "af4"])
def test_dq_stays_where_there_are_constants_to_quantize(dtype: str, configured: Configured) -> None:
    assert configured(f"dtype={dtype}").dq is True


def test_blocksizes_of_bitsandbytes_bind_its_backend_alone(configured: Configured) -> None:
    assert configured("dtype.blocksize=48", "dtype.backend=simulated").dtype.blocksize == 48
    assert configured("dtype.blocksize=4096").dtype.blocksize == 4096


def test_micro_batch_follows_a_smaller_batch(configured: Configured) -> None:
    assert configured("train.batch_size=2").train.micro_batch_size == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.batch_size=0"], "train.batch_size is 0, and must be at least 1"),
        (["train.batch_size=6", "train.micro_batch_size=4"], "micro_batch_size=4 does not divide"),
        (["train.micro_batch_size=-1"], "train.micro_batch_size is -1, and must be at least 1"),
        (
            ["train.micro_batch_size=foo"],
            "micro_batch_size is 'foo', and must be a whole number or",
        ),
        (["train.micro_batch_size=1.5"], "is 1.5, and must be a whole number or auto"),
        (["train.gradient_checkpointing=yes_"], "'yes_', and must be true or false or auto"),
        (["train.max_steps=-1"], "train.max_steps is -1, and must be at least 0"),
        (["train.save_steps=-1"], "train.save_steps is -1, and must be at least 0"),
        (["train.keep_checkpoints=0"], "train.keep_checkpoints is 0, and must be at least 1"),
        (["train.log_steps=0"], "train.log_steps is 0, and must be at least 1"),
        (["train.lr=nan"], "train.lr is nan, and must be at least 0"),
        (["train.lr=null"], "train.lr is null, and must be a number"),
        (["train.beta2=1.0"], r"train.beta2 is 1.0, and must be in \[0, 1\)"),
        (["train.optim=adam"], "train.optim is 'adam', and must be one of paged_adamw_32bit"),
        (["train.schedule=flat"], "train.schedule is 'flat', and must be one of constant"),
        (["seed=4294967296"], "seed is 4294967296, and must be in"),
        (["eval.batch_size=0"], "eval.batch_size is 0, and must be at least 1"),
        (["eval.n=0"], "eval.n is 0, and must be at least 1"),
        (["data.max_source_len=0"], "data.max_source_len is 0, and must be at least 1"),
        (["data.max_target_len=1"], "data.max_target_len is 1, and must be at least 2"),
        (["data.rows=0"], "data.rows is 0, and must be at least 1"),
        (["lora.r=0"], "lora.r is 0, and must be at least 1"),
        (["lora.dropout=1.0"], r"lora.dropout is 1.0, and must be in \[0, 1\)"),
        (["lora.layers=3"], "lora.layers is 3, and must be a list of whole numbers or null"),
        (["generate.top_p=0"], "generate.top_p is 0.0, and must be in"),
        (["generate.temperature=-1"], "generate.temperature is -1.0, and must be at least 0"),
        (["generate.max_new_tokens=0"], "generate.max_new_tokens is 0, and must be at least 1"),
        (["measure.blocks=0"], "measure.blocks is 0, and must be at least 1"),
        (["model.device=gpu"], "model.device is 'gpu', and must be one of auto, cpu, cuda, spread"),
        (["model.kind=chat"], "model.kind is 'chat', and must be one of causal, seq2seq"),
        (["model.source=disk"], "model.source is 'disk', and must be one of hub, local, embedded"),
        (["dtype.name=nf9"], "dtype.name is 'nf9', and must be one of fp32"),
        (["dtype.backend=cuda"], "dtype.backend is 'cuda', and must be bnb or simulated"),
        (["dtype.scales=fp8_e4m3"], "dtype.scales=fp8_e4m3 needs dtype.backend=simulated"),
        (["dtype.scales=fp8"], "dtype.scales is 'fp8', and must be one of dynamic8, fp8_e4m3"),
        (["dtype.compute_dtype=half"], "dtype.compute_dtype is 'half', and must be one of"),
        (["model.tuned=3"], "model.tuned is 3, and must be a section"),
        (["results_dir=${nothing}"], "results_dir refers to a value that is not there"),
        (["stages=[generate]"], "generate=none names no questions"),
        (["merge=true", "train=none"], "merge=true merges an adapter, and a run without training"),
        (["merge=true", "lora=none", "dtype=bf16"], "merges an adapter, and lora=none has none"),
        (["generate=local", "generate.questions=q.jsonl"], "generate.questions=q.jsonl is not a"),
        (["eval=perplexity", "eval.perplexity_file=a.txt"], "eval.perplexity_file=a.txt is not a"),
    ],
)
def test_is_refused_with_the_value_and_what_would_be_right(
    words: list[str], said: str, configured: Configured
) -> None:
    with pytest.raises(ConfigError, match=said) as found:
        configured(*words)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("task", "classes"), [("mnli", 3), ("stsb", 1), ("rte", 2)])
def test_classes_of_a_glue_task_must_be_those_of_the_model(
    task: str, classes: int, configured: Configured
) -> None:
    words = ["model=roberta_large", "data=glue", f"data.tasks=[{task}]"]
    assert configured(*words, f"model.num_labels={classes}").model.num_labels == classes
    with pytest.raises(ConfigError, match=f"{task} needs model.num_labels={classes}"):
        configured(*words, f"model.num_labels={classes + 1}")


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("train.max_step", "train.max_steps"),
        ("max_steps", "train.max_steps"),
        ("batch_size", "train.batch_size"),
        ("learning.lr", "train.lr"),
        ("models", "model"),
        ("lora.rank", None),
    ],
)
def test_the_nearest_setting_is_one_that_is_used_and_not_one_that_tunes_it(
    key: str, near: str | None
) -> None:
    sentence = describe_unknown_setting(key, setting_types())
    assert sentence.startswith(f"there is no setting {key!r}; ")
    assert near is None or sentence.endswith(f"did you mean {near}?")


def test_what_is_checked_by_name_is_there() -> None:
    known = setting_types()
    assert {*" ".join(validate.MINIMUM.values()).split()} <= set(known)
    assert set(validate.CHOICES) | set(validate.UPPER_BOUND) <= set(known)
    assert set(validate.CHOICES["train.optim"]) <= {
        *(option.value for option in OptimizerNames),
        "adamw_8bit",
    }
    assert set(validate.CHOICES["train.schedule"]) <= {option.value for option in SchedulerType}


@pytest.mark.parametrize("section", ["data", "eval", "generate"])
def test_a_template_file_that_is_none_is_refused_before_anything_is_loaded(
    section: str, configured: Configured
) -> None:
    with pytest.raises(ConfigError, match=rf"{section}\.template=none\.yaml is not a file"):
        configured(f"{section}.template=none.yaml")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (
            ["model.path=DIR"],
            "model.path is not read where model.source is embedded, .*model=local",
        ),
        (["model.num_labels=2"], "model.num_labels is not read where model.kind is causal"),
        (["data.path=a.csv"], "data.path is not read where data.kind is procedural, .*data=local"),
        (["generate.questions=pyproject.toml"], "generate.questions is not read where generate"),
        (["generate=procedural", "generate.questions=pyproject.toml"], "generate.name is proced"),
        (["eval.include_path=tests"], "eval.include_path is not read where eval.tasks is"),
        (["eval=none", "eval.limit=4"], r"eval.limit is not read where eval.tasks is \[\]"),
        (["eval.perplexity_window=64"], "eval.perplexity_window is not read where eval.perplexity"),
        (["judge.client.timeout=3"], "judge.client.* is not read where judge.kind is none"),
        (["judge=reference", "judge.model=gpt-4"], "judge.model is not read where judge.kind is r"),
        (["lora=none", "dtype=bf16", "lora.r=4"], "lora.r is not read where lora.target is none"),
        (
            ["dtype=bf16", "dtype.blocksize=32"],
            "dtype.blocksize is not read where dtype.name is bf",
        ),
        (
            ["dtype=int8", "dtype.blocksize=32"],
            "dtype.blocksize is not read where dtype.name is in",
        ),
        (["dq=false", "dtype.scales=dynamic8"], "dtype.scales is not read where dq is false"),
        (["train=none", "train.lr=0.1"], "train.lr is not read where train.max_steps is 0"),
        (["tracker.project=mine"], "tracker.project is not read where tracker.name is none"),
    ],
)
def test_a_setting_that_the_chosen_option_does_not_read_is_refused(
    words: list[str], why: str, configured: Configured
) -> None:
    with pytest.raises(ConfigError, match=why):
        configured(*words, all_read=True)


def test_every_declaration_names_settings_that_there_are() -> None:
    patterns = {name for of in READS.values() for names in of.values() for name in names.split()}
    names = setting_types()
    assert READS.keys() <= names.keys() | {"dq"}
    for pattern in patterns:
        assert any(fnmatchcase(name, pattern) for name in names), pattern


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", "a b", "x" * 101])
def test_a_name_that_would_lead_out_of_the_results_folder_is_refused(
    name: str, configured: Configured
) -> None:
    with pytest.raises(ConfigError, match=r"model.name is .*name of the run's folder"):
        configured("model=tiny", f"model.name='{name}'")


@pytest.mark.parametrize(
    "setting", ["tracker.project", "train.lr", "+judge.request.note", "data.path", "seed"]
)
def test_a_setting_does_not_read_the_environment(
    setting: str, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_TOKEN", "planted-secret-0123456789")
    with pytest.raises(ConfigError, match=r"reads the environment.*key_env") as error:
        configured("model=tiny", f"{setting}=${{oc.env:PLANTED_TOKEN}}")
    assert "planted-secret" not in str(error.value)
