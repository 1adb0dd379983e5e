"""Tiny things that many tests need: random models, and nothing from a network."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models; two workers share the cores
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["QLORA_REPRO_COMPUTE_DTYPE"] = "float32"  # on every processor the same numbers

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig, LlamaForCausalLM

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
    if config.getoption("--oversubscribe"):
        return
    skip = pytest.mark.skip(reason="fills the GPU: --oversubscribe -n 0, on a card of your own")
    for item in items:
        if item.get_closest_marker("oversubscribe"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    """No test finds the base or the rows that an earlier one left."""
    session.clear_caches()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    """A random Llama in float32, two layers, every size a multiple of 64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def rows() -> list[EncodedExample]:
    """Ragged rows: 3 to 30 source tokens, 1 to 6 target tokens with the end of sequence (2)."""
    rng = random.Random(0)
    made = []
    for _ in range(40):
        source = [rng.randrange(3, 128) for _ in range(rng.randint(3, 30))]
        target = [rng.randrange(3, 128) for _ in range(rng.randint(0, 5))] + [2]
        labels = [-100] * len(source) + target
        made.append(EncodedExample(ids=source + target, labels=labels, truncated=False))
    return made


@pytest.fixture(scope="session")
def configured() -> Iterator[Callable[..., RunConfig]]:
    """Compose and check the real conf/ with overrides, as the command does."""

    def make(*overrides: str) -> RunConfig:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", list(overrides))
        return parse_config(cfg, written={word.split("=")[0] for word in overrides})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLORA_REPRO_ROOT", str(ROOT))
        yield make


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted with the test's options ("size=5m", "ro,size=1m")."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
