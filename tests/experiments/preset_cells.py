"""The cells of a preset, composed and checked as a sweep of the command does it."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from qlora_repro.config.schema import RunConfig
from qlora_repro.config.validate import NO_DQ, parse

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml"))
TWINS = sorted(path.stem for path in (ROOT / "experiments" / "small").glob("*.yaml"))
FILE = str(Path(__file__).resolve())  # any file will do: it is not read here
QUESTIONS, OPPONENT = f"generate.questions={FILE}", f"judge.opponent=[{FILE}]"
JUDGED = (
    "table1_elo",
    "table6_vicuna_vs_chatgpt",
    "table7_elo",
    "table12_pairwise",
    "table13_order",
)
TEXT, TASKS = f"eval.perplexity_file={FILE}", f"eval.include_path={ROOT}"
GIVEN = {  # what a user must write beside the preset, at the paper's scale and at both
    "paper": {name: [QUESTIONS, OPPONENT] for name in JUDGED},
    "small": {"table8_crows_bias": ["eval.tasks=[mine]", TASKS]},
    "both": {name: [TEXT] for name in ("table2_perplexity_by_dtype", "blocksize_ablation")},
}
Cell = Mapping[str, str]  # axis -> value


def begin(preset: str, scale: str) -> list[str]:
    """Return what a user writes before the axes."""
    given = GIVEN[scale].get(preset, []) + GIVEN["both"].get(preset, [])
    return [f"experiments={preset}", f"scale={scale}", *given]


def axes(preset: str, scale: str) -> dict[str, list[str]]:
    """Return the values of each axis of a preset's sweep."""
    params = _compose(begin(preset, scale), return_hydra_config=True).hydra.sweeper.params or {}
    parser = OverridesParser.create()
    found = {}
    for axis, values in params.items():
        swept = parser.parse_overrides([f"{axis}={values}"])
        cells = BasicSweeper.split_arguments(swept, max_batch_size=None)[0]
        found[str(axis)] = [cell[0].partition("=")[2] for cell in cells]
    return found


def cells(preset: str, scale: str) -> Iterator[tuple[Cell, RunConfig]]:
    """Yield every cell with its checked configuration.

    Axes that are groups are composed; values are set on what that gave, as Hydra itself does it.
    """
    yield from _product(preset, scale, axes(preset, scale))


def thinned(preset: str, scale: str) -> Iterator[tuple[Cell, RunConfig]]:
    """Yield the cells along each axis, all others at their first value."""
    over = axes(preset, scale)
    first = {axis: values[:1] for axis, values in over.items()}
    for axis, values in over.items():
        yield from _product(preset, scale, first | {axis: values})


def _product(
    preset: str, scale: str, over: Mapping[str, list[str]]
) -> Iterator[tuple[Cell, RunConfig]]:
    groups = [axis for axis in over if "." not in axis and axis not in ("dq", "seed")]
    plain = [axis for axis in over if axis not in groups]
    for chosen in product(*(over[axis] for axis in groups)):
        options = [f"{axis}={value}" for axis, value in zip(groups, chosen, strict=True)]
        cfg = _compose([*begin(preset, scale), *options])
        for values in product(*(over[axis] for axis in plain)):
            cell = dict(zip((*groups, *plain), (*chosen, *values), strict=True))
            yield cell, checked(cfg, {axis: cell[axis] for axis in plain})


def checked(cfg: DictConfig, values: Cell) -> RunConfig:
    """Return a cell's configuration; a dq axis says nothing of a data type that has none."""
    cfg = cfg.copy()
    for override in OverridesParser.create().parse_overrides(
        [f"{k}={v}" for k, v in values.items()]
    ):
        name = override.key_or_group
        if not (name == "dq" and cfg.dtype.name in NO_DQ):
            OmegaConf.update(cfg, name, override.value(), merge=False)
    return parse(cfg, written=set(values) - {"dq"})


def one(preset: str, *words: str, scale: str = "paper") -> RunConfig:
    """Return the configuration of one cell, chosen on the command line."""
    return parse(_compose([*begin(preset, scale), *words]), written=set())


def _compose(words: list[str], *, return_hydra_config: bool = False) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", words, return_hydra_config=return_hydra_config)
