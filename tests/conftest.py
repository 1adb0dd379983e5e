"""Tiny things that many tests need: random models, and nothing from a network."""

import copy
import gc
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["QLORA_REPRO_ROOT"] = str(Path(__file__).resolve().parents[1])  # as run.py does
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models; two workers share the cores
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["QLORA_REPRO_COMPUTE_DTYPE"] = "float32"  # on every processor the same numbers

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tiny_models import make_llama
from transformers import LlamaForCausalLM

from qlora_repro import session
from qlora_repro.config.schema import RunConfig
from qlora_repro.config.validate import parse_config
from qlora_repro.data.tokenization import EncodedExample

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oversubscribe",
        action="store_true",
        help="also run the tests that fill the GPU until states are evicted: for a card of your "
        "own, with -n 0; a GPU that others share may hang",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--oversubscribe") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--oversubscribe fills the GPU: add -n 0, so that one test runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if config.getoption("--oversubscribe"):
        return
    skip = pytest.mark.skip(reason="fills the GPU: --oversubscribe -n 0, on a card of your own")
    for item in items:
        if item.get_closest_marker("oversubscribe"):
            item.add_marker(skip)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave the libraries' million objects out of every garbage collection from now on.

    Each model that is freed collects garbage, as do tests that fork; this was a second a time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    """No test finds the base or the rows that an earlier one left."""
    session.clear_caches()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A random Llama in float32, two layers, every size a multiple of 64."""
    torch.manual_seed(0)
    return make_llama(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


@pytest.fixture
def rows() -> list[EncodedExample]:
    """Ragged rows: 3 to 30 source tokens, 1 to 6 target tokens with the end of sequence (2)."""
    rng = random.Random(0)
    examples = []
    for _ in range(40):
        source = [rng.randrange(3, 128) for _ in range(rng.randint(3, 30))]
        target = [rng.randrange(3, 128) for _ in range(rng.randint(0, 5))] + [2]
        labels = [-100] * len(source) + target
        examples.append(EncodedExample(ids=source + target, labels=labels, truncated=False))
    return examples


@pytest.fixture(scope="session", autouse=True)
def _each_yaml_is_read_once() -> Iterator[None]:
    """Hand out copies of what a YAML file holds: hundreds of cells read the same two dozen."""
    load = OmegaConf.load
    contents: dict[tuple[str, int, int], Any] = {}

    def load_cached(file: Any) -> Any:
        path = file if isinstance(file, str | Path) else getattr(file, "name", None)
        if path is None or not os.path.exists(path):
            return load(file)
        state = os.stat(path)
        key = (os.path.abspath(path), state.st_mtime_ns, state.st_size)
        if key not in contents:
            contents[key] = load(file)
        return copy.deepcopy(contents[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", staticmethod(load_cached))
        yield


@pytest.fixture(scope="session")
def configured() -> Callable[..., RunConfig]:
    """Compose and check the real conf/ with overrides, as the command does.

    Tests that differ in nothing but `results_dir` share what Hydra composes. What a test writes
    for all its cells need not be read by each of them, unless `all_read` says so.
    """
    composed: dict[tuple[str, ...], DictConfig] = {}

    def make(*overrides: str, all_read: bool = False) -> RunConfig:
        shared = tuple(text for text in overrides if not text.startswith("results_dir="))
        if shared not in composed:
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                composed[shared] = compose("config", list(shared))
        cfg = copy.deepcopy(composed[shared])
        for override in overrides:
            if override not in shared:
                cfg.results_dir = override.partition("=")[2]
        keys = {text.split("=")[0] for text in overrides}
        return parse_config(cfg, written={key for key in keys if all_read or "." not in key})

    return make


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted with the test's options ("size=5m", "ro,size=1m")."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
