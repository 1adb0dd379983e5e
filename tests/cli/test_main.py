"""The command line in parts: how flags are read, how complaints are worded."""

import pytest
from hydra.errors import MissingConfigException

from qlora_repro.cli import main
from qlora_repro.config import messages
from qlora_repro.config.resolvers import list_options
from qlora_repro.config.schema import setting_types
from qlora_repro.errors import ConfigError


def test_flags_may_stand_between_overrides() -> None:
    words = ["model=tiny", "--cfg", "job", "dtype=fp4", "--resolve"]
    assert main.arrange_arguments(words) == ["model=tiny", "dtype=fp4", "--cfg", "job", "--resolve"]


def test_the_command_line_keeps_ids_from_being_read_as_numbers() -> None:
    words = ["-m", "judge.run=30e123456789,1e0000000001", "train.lr=1e-4"]
    assert main.arrange_arguments(words) == [
        "judge.run='30e123456789','1e0000000001'",
        words[2],
        "-m",
    ]


@pytest.mark.parametrize("words", [["--fast"], ["model=tiny", "-x"], ["--cfg", "everything"]])
def test_an_unknown_flag_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"run\.py --help shows"):
        main.arrange_arguments(words)
    assert capsys.readouterr() == ("", "")


def test_an_error_never_offers_what_options_start_from() -> None:
    error = MissingConfigException(
        message="", missing_cfg_file="eval/_bas", options=["_base", "none", "rouge"]
    )
    sentence = messages.explain_error(error, setting_types())
    assert sentence == "eval has no option '_bas'; it has none, rouge"
    assert "_seq2seq" not in list_options("model")
    assert "tiny" in list_options("model")


def test_of_many_options_only_the_nearest_are_named() -> None:
    names = [f"llama_{size}b" for size in range(20)]
    error = MissingConfigException(message="", missing_cfg_file="model/lama_7b", options=names)
    sentence = messages.explain_error(error, setting_types())
    assert sentence.startswith("model has no option 'lama_7b'; the nearest is model=llama_7b; ")
    assert sentence.endswith("python run.py --help lists all 20")
