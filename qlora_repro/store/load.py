"""The one loader of runs: a results folder, or the published evidence, as pandas frames.

`load_runs` has a row a run. Every other frame has a row a record, whose `run_id` names the run and
whose `digest` names the settings of its stage: records of one digest were measured in one way.
Nothing here loads torch.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from qlora_repro.config.paths import EVIDENCE
from qlora_repro.errors import StoreError
from qlora_repro.store import evidence
from qlora_repro.store.cell import MANIFEST, check_run_folder
from qlora_repro.store.run_id import flatten_settings, run_id_of
from qlora_repro.store.runs import TOKENS, average_windows, read_json_lines, read_text

MEASUREMENTS = ("quant_errors", "codebooks", "normality", "sram_quantiles")


def load_runs(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load what each run is: a row a run that has a manifest, in the order of their folders.

    Args:
        results: A results folder, or packed evidence; the published runs by default.

    Returns:
        `run_id`, `folder` and these columns; a missing value says that it is not known:

        - `model`: its name; runs that computed in another dtype than most of that model's are named
          apart ("smollm2_135m in bfloat16"), so that no table mixes the two
        - `dtype`, `dq`, `blocksize`, `backend`, `lora` (where adapters are), `data`, `seed`
        - `tuned`: whether anything trained; `trainable`: how many parameters
        - `bits`: of a quantized parameter, constants included; `model_bits`: of the whole model
        - `note`: what must be said of the weights
        - `commit`, `dirty`: the code that made it; `command`, `finished`: of its last stage
        - `settings`, `manifest`: dicts, what decided the weights and the whole manifest
        - every setting by its dotted name: `train.lr`, `lora.r`, `data.rows`

    Raises:
        StoreError: There is no such folder, one of its files is corrupt, or a folder has the name
            of another run.
    """
    results = Path(results)
    manifests = list(_read_documents(results, MANIFEST))
    usual = _usual_compute_dtypes([manifest["decided_by"] for _, _, manifest in manifests])
    last: dict[str, dict[str, Any]] = {}  # origin of each run's last stage
    for folder, _, origin in _read_documents(results, "origin-*.json"):
        if str(origin.get("finished")) >= str(last.get(folder, {}).get("finished", "")):
            last[folder] = origin
    rows = []
    for folder, _, manifest in manifests:
        settings, origin = manifest["decided_by"], last.get(folder, {})
        flat = flatten_settings(settings)
        run = {
            "run_id": run_id_of(folder),
            "folder": folder,
            "model": _model_name(settings, usual),
            "note": manifest["model"].get("note"),
            "dtype": settings["dtype"]["name"],
            "dq": settings["dq"],
            "blocksize": settings["dtype"].get("blocksize"),
            "backend": settings["dtype"].get("backend"),
            "bits": manifest["base"]["bits_per_parameter"],
            "lora": flat.get("lora.target"),
            "data": flat.get("data.name"),
            "seed": settings.get("seed"),
            "commit": manifest["provenance"]["commit"],
            "dirty": manifest["provenance"]["dirty"],
            "tuned": "train" in settings,
            "trainable": (manifest.get("trainable") or {}).get("total"),
            "model_bits": _model_bits(manifest),
            "command": origin.get("command"),
            "finished": origin.get("finished"),
            "settings": settings,
            "manifest": manifest,
        }
        rows.append(run | {name: value for name, value in flat.items() if "." in name})
    return pd.DataFrame(rows)


def load_metrics(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load aggregate scores: a row a `records.Metric`.

    Args:
        results: A results folder, or packed evidence.

    Returns:
        `run_id`, `digest` of the evaluation, and the metric's fields.
    """
    return _read_records(*_list_files(results, "metrics")).copy(deep=False)


def load_answers(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load scores of single questions: a row a `records.Answer`.

    A row of `task == "perplexity"` is a window of consecutive tokens: `value` is their mean, and
    `tokens` how many they are. Statistics resample such windows, never single tokens. For other
    tasks `tokens` is 1.

    Args:
        results: A results folder, or packed evidence.

    Returns:
        `run_id`, `digest` of the evaluation, `tokens`, and the answer's fields.
    """
    frame = _read_records(*_list_files(results, "answers")).copy(deep=False)
    if TOKENS not in frame:
        return frame.assign(**{TOKENS: 1}) if len(frame) else frame
    return frame.assign(**{TOKENS: frame[TOKENS].fillna(1).astype("int64")})


def load_steps(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load training curves: a row a step, with `step`, `loss`, `grad_norm` and `lr`."""
    return _read_records(*_list_files(results, "steps")).copy(deep=False)


def load_generations(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load generated texts: a row a `records.Generation`. Published runs have none."""
    return _read_records(*_list_files(results, "generations")).copy(deep=False)


def load_judgments(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load judges' verdicts: a row a `records.Judgment`, in the run that the judge was asked on."""
    return _read_records(*_list_files(results, "judgments")).copy(deep=False)


def load_measurements(kind: str, results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load what was measured on weights: a row a record of one kind.

    Args:
        kind: "quant_errors", "codebooks", "normality" or "sram_quantiles".
        results: A results folder, or packed evidence.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in MEASUREMENTS:
        raise ValueError(f"kind={kind!r}: it may be {', '.join(MEASUREMENTS)}")
    return _read_records(*_list_files(results, kind)).copy(deep=False)


def load_plans(results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load predicted memory: a row a `records.MemoryPlan`, sizes in bytes."""
    return _read_records(*_list_files(results, "plan")).copy(deep=False)


def load_documents(name: str, results: Path | str = EVIDENCE) -> pd.DataFrame:
    """Load JSON documents of runs: a row a file, in the order of folders and names.

    Args:
        name: "manifest.json", "train.json", or a pattern: "settings-*.json" (what decided a
            stage), "origin-*.json" (how it came about).
        results: A results folder, or packed evidence.

    Returns:
        `run_id`, `folder`, `digest` of the stage, and `document`, parsed.
    """
    rows = [
        (run_id_of(folder), folder, digest, document)
        for folder, digest, document in _read_documents(Path(results), name)
    ]
    return pd.DataFrame(rows, columns=["run_id", "folder", "digest", "document"])


def load_settings(results: Path | str = EVIDENCE) -> dict[tuple[str, str], dict[str, Any]]:
    """Load what decided each stage's outcome, section by section: (run_id, digest) -> settings."""
    documents = _read_documents(Path(results), "settings-*.json")
    return {(run_id_of(folder), digest): settings for folder, digest, settings in documents}


def load_origins(results: Path | str = EVIDENCE) -> dict[tuple[str, str], dict[str, Any]]:
    """Load how each stage came about: (run_id, digest) -> command, commit, versions, environment.

    `dirty` is whether its code, or that of the run's training, had uncommitted changes. What the
    manifest says is under the digest "".
    """
    origins = {
        (run_id_of(folder), ""): manifest["provenance"]
        for folder, _, manifest in _read_documents(Path(results), MANIFEST)
    }
    for folder, digest, origin in _read_documents(Path(results), "origin-*.json"):
        before = origins.get((run_id_of(folder), ""), {})
        dirty = origin.get("dirty") or before.get("dirty")
        origins[run_id_of(folder), digest] = {**before, **origin, "dirty": dirty}
    return origins


def _read_documents(results: Path, pattern: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (folder, digest, document) of every document whose name matches."""
    if evidence.is_evidence(results):
        texts = evidence.read_texts(results, pattern)
    else:
        paths = _files(results, pattern)
        if pattern == MANIFEST:
            for path in paths:
                check_run_folder(path.parent)
        texts = ((path.parent.name, path.name, read_text(path)) for path in paths)
    for folder, name, text in texts:
        yield folder, evidence.split_name(name)[1], json.loads(text)


def _files(results: Path, pattern: str) -> list[Path]:
    if not results.is_dir():
        raise StoreError(f"--results {results} is not a folder; name one that runs were written to")
    return sorted(results.glob(f"*/{pattern}"))


def _list_files(
    results: Path | str, kind: str
) -> tuple[Path, str, tuple[tuple[Path, int, int], ...]]:
    """Return the arguments of `_read_records`: the files of a kind, with their versions."""
    results = Path(results)
    if evidence.is_evidence(results):
        paths = list(results.glob(f"{kind}.parquet"))
    else:
        pattern = "steps.jsonl" if kind == "steps" else f"{kind}-*.jsonl"
        paths = _files(results, pattern)
    versions = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    return results, kind, tuple(versions)


@lru_cache(maxsize=32)  # every table and figure asks for the same few
def _read_records(
    results: Path, kind: str, versions: tuple[tuple[Path, int, int], ...]
) -> pd.DataFrame:
    if evidence.is_evidence(results):
        return evidence.read_records(results, kind)
    settings = load_settings(results) if kind == "answers" else {}
    rows = []
    for path, _, _ in versions:
        run_id, digest = run_id_of(path.parent.name), evidence.split_name(path.name)[1]
        lines: Iterable[dict[str, Any]] = read_json_lines(path)
        if kind == "answers":
            asked = settings.get((run_id, digest), {}).get("eval", {})
            lines = average_windows(lines, int(asked.get("perplexity_window") or 1))
        keys = {"run_id": run_id, "digest": digest}
        rows += [keys | line | keys for line in lines]
    return pd.DataFrame(rows)


def _compute_dtype(settings: Mapping[str, Any]) -> str | None:
    """Return what a run computed in; None for dtype=fp32, which computes in nothing else."""
    dtype: dict[str, Any] = settings["dtype"]
    return None if dtype["name"] == "fp32" else dtype.get("compute_dtype")


def _usual_compute_dtypes(settings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return what most runs of each model computed in."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for run in settings:
        if dtype := _compute_dtype(run):
            counts[run["model"]["name"]][dtype] += 1
    return {model: counter.most_common(1)[0][0] for model, counter in counts.items()}


def _model_name(settings: Mapping[str, Any], usual: Mapping[str, str]) -> str:
    """Return a model's name, which says where it computed in a rarer dtype than others."""
    name, dtype = str(settings["model"]["name"]), _compute_dtype(settings)
    return name if dtype in (None, usual.get(name)) else f"{name} in {dtype}"


def type_name(dtype: str, dq: bool) -> str:
    """Return a data type as tables name it.

    >>> type_name("nf4", True)
    'nf4 + dq'
    """
    return f"{dtype} + dq" if dq else dtype


def _model_bits(manifest: Mapping[str, Any]) -> float | None:
    """Return the bits of a model as a GPU would hold it: codes, scales, unquantized values.

    An unquantized value counts 16 bits, and 32 with dtype=fp32: one held in float32 because a CPU
    computes faster in it was rounded to 16 bits before.
    """
    base = manifest["base"]
    if "code_bytes" not in base:
        return None
    unquantized = 32 if manifest["decided_by"]["dtype"]["name"] == "fp32" else 16
    values = sum(part["params"] for part in base["kept"] if part["role"] != "adapter")
    return float(8 * (base["code_bytes"] + base["scale_bytes"]) + unquantized * values)
