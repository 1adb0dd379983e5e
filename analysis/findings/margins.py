"""What the findings are held to: experiments/claims/margins.yaml, types without values."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import OmegaConf

from qlora_repro.config.paths import MARGINS

PATH = MARGINS


@dataclass
class Hypothesis:
    finding: str  # as the paper has it, in our words
    hypothesis: str  # as it is tested


@dataclass
class Margin:
    value: float
    unit: str
    reason: str


@dataclass
class Benchmark:
    task: str
    name: str


@dataclass
class Score(Benchmark):
    margin: str  # a key of margins
    scale: float


@dataclass
class Fixed:
    """Everything that is decided before looking."""

    alpha: float
    power: float
    resamples: int
    fewest_flipped: int
    fewest_seeds: int
    seed: int
    same_order: float
    hypotheses: list[Hypothesis]  # of findings 1 to 7
    margins: dict[str, Margin]
    scores: list[Score]
    factors: dict[str, str]
    accuracy_benchmark: Benchmark


def fixed(path: Path = PATH) -> Fixed:
    """Read the file; a key that is unknown or not there is an error."""
    merged = OmegaConf.merge(OmegaConf.structured(Fixed), OmegaConf.load(path))
    return cast(Fixed, OmegaConf.to_object(merged))
