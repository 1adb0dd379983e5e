"""A user's own functions: named in the configuration, pinned by a digest, imported late."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qlora_repro.config.paths import CONFIG_DIR_VARIABLE
from qlora_repro.config.registry import (
    DATA_TYPES,
    DATASETS,
    JUDGES,
    import_function,
    pin_function,
)
from qlora_repro.config.schema import RunConfig
from qlora_repro.data.datasets import load_examples
from qlora_repro.errors import ConfigError, DataError
from qlora_repro.quant.codebooks import make_codebook
from qlora_repro.store.run_id import stage_digest

Configured = Callable[..., RunConfig]
LEVELS = """
import torch
import my_constants

def even(blocksize):
    return torch.linspace(-1, 1, my_constants.COUNT)

def downwards():
    return [1.0, -1.0]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own, with modules that no other test has imported."""
    monkeypatch.setenv(CONFIG_DIR_VARIABLE, str(tmp_path))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [name for name in sys.modules if name.startswith("my_")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "my_types.py").write_text(LEVELS)
    (tmp_path / "my_constants.py").write_text("COUNT = 7\n")
    return tmp_path


def test_every_registered_function_is_there() -> None:
    names = [dtype.levels for dtype in DATA_TYPES.values() if dtype.levels]
    names += [dataset.convert for dataset in DATASETS.values() if dataset.convert]
    assert all(callable(import_function(name)) for name in (*names, *JUDGES.values()))


def test_a_pinned_function_is_found_beside_the_options_and_not_imported(folder: Path) -> None:
    pinned = pin_function("my_types:even", key="dtype.codebook")
    assert pinned.startswith("my_types:even sha256:")
    assert pin_function(pinned, key="dtype.codebook") == pinned
    assert "my_types" not in sys.modules
    levels = make_codebook(pinned, blocksize=64)
    assert levels.tolist() == pytest.approx([k / 3 for k in range(-3, 4)], abs=1e-6)


def test_a_digest_changes_with_the_module_and_with_what_it_imports_beside_it(folder: Path) -> None:
    first = pin_function("my_types:even", key="x")
    (folder / "unrelated.py").write_text("")
    assert pin_function("my_types:even", key="x") == first
    (folder / "my_constants.py").write_text("COUNT = 5\n")
    with pytest.raises(ConfigError, match="is called only while it is the same"):
        pin_function(first, key="x")
    with pytest.raises(ConfigError, match="is called only while it is the same"):
        import_function(first)
    assert pin_function("my_types:even", key="x") != first


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_types", "must be MODULE:FUNCTION, as in my_module:my_function"),
        ("my_tipes:even", "names the module my_tipes, which is neither beside the options"),
        ("json:loads", "names the module json, which is neither beside the options"),
        ("my_types:evn", "defines no evn; did you mean even"),
        ("my_types.even:even", "which is neither beside the options of --config-dir nor on"),
    ],
)
def test_a_bad_name_is_refused_in_one_sentence(name: str, says: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        pin_function(name, key="dtype.codebook")
    assert "\n" not in str(error.value)


def test_a_module_of_the_project_is_not_the_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    with pytest.raises(ConfigError, match="is a module of the project and not your own"):
        pin_function("qlora_repro.quant.codebooks:fp4_levels", key="dtype.codebook")


def test_levels_must_ascend(folder: Path) -> None:
    with pytest.raises(ConfigError, match="two or more levels in ascending order"):
        make_codebook(pin_function("my_types:downwards", key="x"), blocksize=64)


def test_a_users_type_is_named_in_the_id_by_its_digest(
    folder: Path, configured: Configured
) -> None:
    words = ["dtype=af4", "dtype.name=even7", "dtype.codebook=my_types:even"]
    before = stage_digest(configured(*words), "train")
    assert stage_digest(configured(*words), "train") == before
    (folder / "my_types.py").write_text(LEVELS.replace("-1, 1", "-0.5, 0.5"))
    assert stage_digest(configured(*words), "train") != before
    with pytest.raises(ConfigError, match=r"dtype\.name=af4 is the name of another"):
        configured("dtype=af4", "dtype.codebook=my_types:even")


def test_rows_of_a_function_go_through_the_template(folder: Path, configured: Configured) -> None:
    (folder / "my_rows.py").write_text(
        "def rows(cfg, split):\n"
        "    for n in range(8):\n"
        "        yield {'source': f'{split} {n}?', 'target': str(n)}\n"
    )
    words = ["data.name=numbers", "data.loader=my_rows:rows", "data.rows=null"]
    data = configured(*words).data
    examples = load_examples(data)
    assert (examples[7].source, examples[7].target) == ("train 7?\nAnswer:", " 7")
    (folder / "my_rows.py").write_text("def rows(cfg, split):\n    return [3]\n")
    with pytest.raises(ConfigError, match="is called only while it is the same"):
        load_examples(data)


def test_a_function_that_fails_is_named(folder: Path, configured: Configured) -> None:
    (folder / "my_bad_rows.py").write_text("def rows(cfg, split):\n    return [1 / 0]\n")
    data = configured("data.name=numbers", "data.loader=my_bad_rows:rows").data
    with pytest.raises(DataError, match="my_bad_rows:rows failed: ZeroDivisionError"):
        load_examples(data)


def test_a_file_of_the_users_counts_by_its_contents_whatever_its_option_is_called(
    tmp_path: Path, configured: Configured
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"source": "a", "target": "b"}\n')
    words = ["data=local", "data.name=mine", "data.kind=file", f"data.path={path}"]
    before = stage_digest(configured(*words), "train")
    path.write_text('{"source": "a", "target": "c"}\n')
    assert stage_digest(configured(*words), "train") != before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.name=alpacca"], "there is no dataset 'alpacca' .*did you mean alpaca"),
        (["data.kind=table"], "data.kind is 'table', and must be one of procedural, file, hub"),
        (["data.kind=function"], "write data.loader=MODULE:FUNCTION"),
        (["data.loader=my_types:even"], "data.name=procedural is the name of another"),
        (["judge=reference", "judge.kind=function"], "needs judge.kind=function and judge.func"),
        (["judge.kind=gpt"], "judge.kind is 'gpt', and must be one of none, human"),
        (["measure.dtypes=[nf4,my_types:none]"], "my_types.py defines no none"),
    ],
)
def test_what_an_option_of_ones_own_lacks_is_said(
    words: list[str], says: str, folder: Path, configured: Configured
) -> None:
    with pytest.raises(ConfigError, match=says):
        configured(*words)
