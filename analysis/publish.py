"""Publish runs: what each recorded, packed small enough to be kept with the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from qlora_repro.errors import StoreError
from qlora_repro.store.cell import MANIFEST, describe_other_run
from qlora_repro.store.evidence import is_evidence, read_files, write_evidence
from qlora_repro.store.integrity import CHECKSUMS, checksum
from qlora_repro.store.load import load_settings
from qlora_repro.store.run_id import run_id_of
from qlora_repro.store.runs import average_windows, read_json, read_json_lines

OMITTED = ("whole.json", "progress.json", "failed.json", "summary-", "generations-")
WEIGHTS = ("adapter", "model")  # of which the checksums are kept


def publish(results: Path, out: Path) -> Iterator[str]:
    """Pack every finished run and plan of a results folder; yield a sentence on each.

    All records, settings and manifests come along, and the checksums of the weights; the weights
    and generated texts do not. Scores of a text's tokens are averaged over windows, which are what
    statistics resample. Of paths, "." is where the command was given, "~" the home directory. What
    was published before stays, but for files of the same run and name.

    Raises:
        StoreError: `results` has no runs, or a record is corrupt.
    """
    if results.resolve() == out.resolve():
        raise StoreError(f"--results and --out are both {out}; runs are copied from one to another")
    if is_evidence(results):
        raise StoreError(f"--results {results} is published; name a folder that runs wrote to")
    runs = read_files(out) if is_evidence(out) else {}
    windows = {
        stage: int(settings.get("eval", {}).get("perplexity_window") or 1)
        for stage, settings in load_settings(results).items()
    }
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        reason = _why_left_out(folder)
        if reason is None:
            continue
        if reason:
            yield f"{folder.name}: left out, {reason}"
            continue
        runs[folder.name] = _merge(runs.get(folder.name, {}), _published_files(folder, windows))
        yield folder.name + _describe(folder)
    write_evidence(runs, out)


def _why_left_out(folder: Path) -> str | None:
    """Return why a run is not published, "" where it is; None for a folder that is no run."""
    if not (folder / MANIFEST).exists():
        return "" if any(folder.glob("plan-*.jsonl")) else None
    if reason := describe_other_run(folder):
        return reason
    trains = "train" in read_json(folder / MANIFEST)["decided_by"]
    if trains and not (folder / "train.json").exists():
        return "its training is not finished"
    return "" if any(folder.glob("*.jsonl")) else "nothing was measured"


def _describe(folder: Path) -> str:
    if not (folder / MANIFEST).exists():
        return ": a plan"
    dirty = read_json(folder / MANIFEST)["provenance"]["dirty"]
    return ": of code with uncommitted changes" if dirty else ""


def _published_files(folder: Path, windows: dict[tuple[str, str], int]) -> dict[str, str]:
    """Return the files of a run as they are published, by name."""
    directories = {str(read_json(path)["folder"]) for path in folder.glob("origin-*.json")}
    texts = {}
    for path in sorted(folder.glob("*.json*")):
        if path.name.startswith(OMITTED):
            continue
        if path.suffix == ".json":
            text = json.dumps(read_json(path), indent=2) + "\n"
            texts[path.name] = _hide_paths(text, directories)
            continue
        rows = read_json_lines(path)
        if path.name.startswith("answers-"):
            stage = run_id_of(folder.name), path.stem.rpartition("-")[2]
            rows = list(average_windows(rows, windows.get(stage, 1)))
        texts[path.name] = "".join(json.dumps(row) + "\n" for row in rows)
    texts[CHECKSUMS] = json.dumps({name: checksum(text.encode()) for name, text in texts.items()})
    for path in [folder / name / CHECKSUMS for name in WEIGHTS]:
        if path.exists():
            texts[f"{path.parent.name}/{CHECKSUMS}"] = path.read_text(encoding="utf-8")
    return texts


def _merge(before: dict[str, str], files: dict[str, str]) -> dict[str, str]:
    """Return the files of a run that was published before, the newer ones in their place."""
    checksums = json.loads(before.get(CHECKSUMS, "{}")) | json.loads(files[CHECKSUMS])
    return before | files | {CHECKSUMS: json.dumps(checksums, indent=1) + "\n"}


def _hide_paths(text: str, directories: set[str]) -> str:
    """Return a document without the paths of one machine.

    >>> _hide_paths('{"folder": "/x/y", "of": ["/x/y/a.csv", "/x/yz"]}', {"/x/y"})
    '{"folder": ".", "of": ["./a.csv", "/x/yz"]}'
    """
    signs = [*((path, ".") for path in sorted(directories)), (str(Path.home()), "~")]
    for path, sign in signs:
        text = re.sub(rf'(?<![\w./-]){re.escape(path)}(?=["/])', sign, text)
    return text
