"""dtype.compute_dtype=auto: by the processor's flags, once a sweep, never part of an identity."""

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import open_dict

from qlora_repro.config import resolvers
from qlora_repro.config.schema import RunConfig
from qlora_repro.config.validate import parse_config
from qlora_repro.store.run_id import deciding_settings, stage_digest

ROOT = Path(__file__).resolve().parents[2]
Configured = Callable[..., RunConfig]


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Stand in for a machine with a processor of these flags, and no GPU."""
    monkeypatch.delenv(resolvers.DTYPE_VARIABLE, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def has(flags: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
        monkeypatch.setattr(resolvers, "CPUINFO", tmp_path / "cpuinfo")
        resolvers.cpu_multiplies_bf16.cache_clear()

    yield has
    resolvers.cpu_multiplies_bf16.cache_clear()


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("sse2 avx512f avx512_bf16", "bfloat16"),
        ("avx512f amx_bf16 amx_tile", "bfloat16"),
        ("avx512f amx_int8 amx_tile", "float32"),
        ("avx2 avx512f avx512_vnni", "float32"),
        ("", "float32"),
    ],
)
def test_auto_goes_by_the_flags_of_the_processor(
    flags: str, dtype: str, processor: Callable[[str], None], configured: Configured
) -> None:
    processor(flags)
    assert configured("model=tiny").dtype.compute_dtype == dtype
    assert configured().dtype.compute_dtype == dtype


def test_arm_lists_it_as_a_feature() -> None:
    assert resolvers.has_native_bf16("Features\t: fp asimd bf16 i8mm")
    assert not resolvers.has_native_bf16("Features\t: fp asimd i8mm")


def test_a_system_that_lists_no_flags_computes_in_float32(
    tmp_path: Path, processor: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("amx_bf16 amx_tile")
    monkeypatch.setattr(resolvers, "CPUINFO", tmp_path / "none")
    assert resolvers.native_dtype("cpu") == "float32"


def test_on_a_gpu_auto_is_bfloat16_whatever_the_processor(
    processor: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor("sse2")
    monkeypatch.setattr(resolvers, "version", lambda name: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert resolvers.native_dtype("auto") == "bfloat16"
    assert resolvers.native_dtype("cpu") == "float32"
    monkeypatch.setattr(resolvers, "version", lambda name: "2.13.0+cpu")  # which uses no GPU
    assert resolvers.native_dtype("auto") == "float32"


def test_what_is_written_stays_and_fp32_computes_in_float32(
    processor: Callable[[str], None], configured: Configured
) -> None:
    processor("avx512_bf16")
    assert configured("model=tiny", "dtype.compute_dtype=float32").dtype.compute_dtype == "float32"
    plain = configured("model=tiny", "dtype=fp32", "dq=false", "dtype.compute_dtype=auto")
    assert plain.dtype.compute_dtype == "float32"
    hub = configured("model=llama_7b", "dtype.compute_dtype=auto", "model.device=cpu")
    assert hub.dtype.compute_dtype == "bfloat16"


def test_an_identity_has_the_arithmetic_and_never_auto(
    processor: Callable[[str], None], configured: Configured
) -> None:
    ids = {}
    for flags in ("avx2", "avx512_bf16"):
        processor(flags)
        cfg = configured("model=tiny")
        ids[cfg.dtype.compute_dtype] = stage_digest(cfg, "train")
        assert '"auto"' not in json.dumps(deciding_settings(cfg, "eval")["dtype"])
    written = configured("model=tiny", "dtype.compute_dtype=float32")
    assert ids["float32"] == stage_digest(written, "train")
    assert ids["float32"] != ids["bfloat16"]


@pytest.mark.usefixtures("configured")
def test_a_cell_carries_the_choice_of_the_machine_that_started_its_sweep(
    processor: Callable[[str], None],
) -> None:
    """As Hydra does it: the sweep's configuration goes to a worker, which composes its cell."""
    processor("avx512_bf16")
    loader = ConfigLoaderImpl(create_config_search_path(str(ROOT / "conf")))
    sweep = loader.load_configuration("config", overrides=[], run_mode=RunMode.MULTIRUN)
    Callbacks(sweep)
    sent = pickle.dumps(sweep)
    processor("sse2")  # the worker's own
    assert resolvers.native_dtype("auto") == "float32"
    for device in ("auto", "cpu"):
        words = ["model=tiny", f"model.device={device}"]
        cell = copy.deepcopy(loader.load_sweep_config(pickle.loads(sent), words))
        with open_dict(cell):
            del cell["hydra"]
        assert parse_config(cell, written=set()).dtype.compute_dtype == "bfloat16"


EVIDENCE = sorted(
    {
        tuple(
            word
            for word in json.loads(path.read_text())["command"][1:]
            if not word.startswith(("eval.perplexity_file=", "results_dir="))
        )
        for path in (ROOT / "analysis" / "results").glob("smollm2*/origin-*.json")
    }
)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "words", [words for words in EVIDENCE if any("experiments=" in word for word in words)], ids=str
)
def test_published_commands_compute_in_float32_on_every_processor(
    words: tuple[str, ...], processor: Callable[[str], None]
) -> None:
    processor("avx512_bf16 amx_tile amx_bf16")
    parsed = OverridesParser.create().parse_overrides([w for w in words if not w.startswith("-")])
    swept = [o.input_line for o in parsed if o.is_sweep_override()]
    single = [o.input_line for o in parsed if not o.is_sweep_override()]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        axes = compose("config", single, return_hydra_config=True).hydra.sweeper.params or {}
        model = axes.get("model", "smollm2_135m")
        for more in ([], [w.partition(",")[0] for w in swept if w.startswith("dtype=")]):
            cfg = compose("config", [*single, f"model={model}", *more])
            cfg.eval.perplexity_file = __file__
            assert parse_config(cfg, written=set()).dtype.compute_dtype == "float32"
