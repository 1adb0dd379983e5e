"""The store as data frames: a row a record, beside what decided its run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from qlora_repro.errors import StoreError
from qlora_repro.store.runs import read_document, read_lines

MANIFEST = "manifest.json"


def manifests(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (folder, manifest) of every run of a results folder, by name.

    Of a model that computed in two dtypes, the runs in the rarer one go by a name that says so.

    Raises StoreError when there is no such folder.
    """
    if not root.is_dir():
        raise StoreError(f"--results {root} is not a folder; name one that runs were written to")
    found = [(path.parent, read_document(path)) for path in sorted(root.glob(f"*/{MANIFEST}"))]
    usual = _usual_arithmetic([manifest["decided_by"] for _, manifest in found])
    for folder, manifest in found:
        yield folder, manifest | {"decided_by": _naming_arithmetic(manifest["decided_by"], usual)}


def _arithmetic(decided: dict[str, Any]) -> str | None:
    """Return what a run computed in; None for dtype=fp32, which computes in nothing else."""
    dtype: dict[str, Any] = decided.get("dtype", {})
    return None if dtype.get("name") == "fp32" else dtype.get("compute_dtype")


def _usual_arithmetic(decided: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return what most runs of each model computed in."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in decided:
        if arithmetic := _arithmetic(one):
            counts[one["model"]["name"]][arithmetic] += 1
    return {model: counter.most_common(1)[0][0] for model, counter in counts.items()}


def _naming_arithmetic(decided: dict[str, Any], usual: dict[str, str]) -> dict[str, Any]:
    """Return a run's settings, its model named apart where it computed in another arithmetic.

    So that no table compares the two: smollm2_135m is one model, and "smollm2_135m in bfloat16",
    beside more runs in float32, another.
    """
    model, arithmetic = decided["model"], _arithmetic(decided)
    if arithmetic in (None, usual.get(model["name"])):
        return decided
    return decided | {"model": model | {"name": f"{model['name']} in {arithmetic}"}}


def facts(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a table says of a run: its settings, its weights' past, its provenance."""
    decided = manifest["decided_by"]
    dtype, lora = decided["dtype"], decided.get("lora") or {}
    provenance = manifest["provenance"]
    return {
        "folder": folder.name,
        "model": decided["model"]["name"],
        "note": manifest["model"].get("note"),  # what must be said of the weights
        "dtype": dtype["name"],
        "dq": decided["dq"],
        "blocksize": dtype.get("blocksize"),  # None: nothing was cut into blocks
        "backend": dtype.get("backend"),
        "bits": manifest["base"]["bits_per_parameter"],  # None: nothing was quantized
        "lora": lora.get("target"),
        "data": (decided.get("data") or {}).get("name"),
        "seed": decided.get("seed"),
        "commit": provenance["commit"],
        "dirty": provenance["dirty"],
    }


def records(root: Path, kind: str) -> pd.DataFrame:
    """Return every record of the files `<kind>-<digest>.jsonl`: its fields, then `facts`.

    Where both have a field, as where a 16-bit run measured data types, it is the record's.

    `digest` is that of the stage: records of one digest were measured in the same way. The frame is
    empty, and without columns, where no run has such a file.
    """
    rows = [
        {**row, "digest": path.stem.rpartition("-")[2], **facts(folder, manifest), **row}
        for folder, manifest in manifests(root)
        for path in sorted(folder.glob(f"{kind}-*.jsonl"))
        for row in read_lines(path)
    ]
    return pd.DataFrame(rows)


def folders(found: pd.DataFrame) -> tuple[str, ...]:
    """Return the folders that records came from."""
    return () if found.empty else tuple(sorted(set(found["folder"])))


def settings(root: Path, folder: str, digest: str) -> dict[str, Any]:
    """Return what decided the records of a digest, section by section; {} where it is not known."""
    path = root / folder / f"settings-{digest}.json"
    found: dict[str, Any] = read_document(path) if path.exists() else {}
    return found


def type_name(dtype: str, dq: bool) -> str:
    """Return a data type as tables name it.

    >>> type_name("nf4", True)
    'nf4 + dq'
    """
    return f"{dtype} + dq" if dq else dtype


def origin(answers: Path) -> dict[str, Any]:
    """Return how the evaluation that left a file of answers came about; {} where it is not known.

    `dirty` is whether its code, or that of the training before it, had uncommitted changes.
    """
    folder, digest = answers.parent, answers.stem.rpartition("-")[2]
    found: dict[str, Any] = {}
    for name in (f"origin-{digest}.json", MANIFEST):
        if (folder / name).exists():
            document = read_document(folder / name)
            about = document.get("provenance", document)
            found = {**about, **found, "dirty": found.get("dirty") or about.get("dirty")}
    return found


def model_bits(base: dict[str, Any], *, kept: int = 16) -> float:
    """Return the bits of a model as a GPU would hold it: codes, scales, and `kept` bits a value.

    A value held in float32 because a CPU computes faster in it was rounded to 16 bits before, and
    counts so, but for dtype=fp32.
    """
    stored = 8 * (base["code_bytes"] + base["scale_bytes"])
    values = sum(part["params"] for part in base["kept"] if part["role"] != "adapter")
    return float(stored + kept * values)
