"""Table 4: 5-shot MMLU of LLaMA with adapters, by data type."""

from functools import partial

from analysis.artifacts.render import build as build_cells
from analysis.artifacts.spec import MMLU, STAND_INS, Artifact, Place, always, cells, offered
from analysis.findings.runs import Run
from qlora_repro.store.load import type_name

STEM = "table4_mmlu_by_dtype"
MODELS = ("llama_7b", "llama_13b", "llama_33b", "llama_65b")


def method(run: Run) -> str:
    """Return the data type of a tuned run; where every weight trained, that is said."""
    full = run.at("lora.target") == "none"
    return type_name(run.at("dtype.name"), run.at("dq")) + (" full fine-tuning" if full else "")


def places(run: Run) -> list[Place]:
    """Return the cell of a run with adapters on all layers, or without any."""
    if not run.tuned or run.at("lora.target") not in ("all", "none"):
        return []
    return offered(method(run), f"{run.model} {run.at('data.name')}", (MMLU, *STAND_INS))


ARTIFACT = Artifact(
    stem=STEM,
    title="Table 4: 5-shot MMLU by data type, LLaMA with adapters",
    heads=("data type", "model and data"),
    places=places,
    varies=("dtype.name", "dtype.scales", "dq", "lora.target"),
    models=MODELS,
    scores=(MMLU.task,),
    base=always("bf16"),
    paper=partial(cells, STEM),
    presets=(STEM,),
    digits=1,
    notes=(
        "base row: bf16, adapters on a 16-bit model",
        "the paper's cells are single runs; those that it prints again in Table 5 differ by up to "
        "0.7, which is a noise floor of its own",
        "FP4 is below BF16 in 6 of the paper's 8 cells",
    ),
)
build = partial(build_cells, ARTIFACT)
