"""Publish runs: what each recorded, packed small enough to be kept with the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from qlora_repro.errors import StoreError
from qlora_repro.store.cell import MANIFEST, describe_other_run
from qlora_repro.store.evidence import is_evidence, read_files, write_evidence
from qlora_repro.store.integrity import CHECKSUMS, checksum
from qlora_repro.store.runs import RunFolder, average_windows, read_json, read_json_lines

OMITTED = ("whole.json", "progress.json", "failed.json", "summary-", "generations-")
WEIGHTS = ("adapter", "model")  # of which the checksums are kept


def publish(results: Path, out: Path) -> Iterator[str]:
    """Pack every finished run and plan of a results folder; yield a sentence on each.

    All records, settings and manifests come along, and the checksums of the weights; the weights
    and generated texts do not. Scores of a text's tokens are averaged over windows, which are what
    statistics resample. Of paths, "." is where the command was given, "~" the home directory. What
    was published before stays, but for files of the same run and name.

    A run is published as a whole or left out: one that a process works on or that cannot be read.

    Raises:
        StoreError: `results` has no runs; or, once the others are published, for runs that could
            not be read.
    """
    _check_folders(results, out)
    runs = read_files(out) if is_evidence(out) else {}
    bad: list[str] = []
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        files, remark = _read_run(folder)
        if files is None:
            bad.append(folder.name)
        elif files:
            runs[folder.name] = _merge(runs.get(folder.name, {}), files)
        if remark is not None:
            yield folder.name + remark
    write_evidence(runs, out)
    if bad:
        raise StoreError(f"not published, as a file of theirs cannot be read: {', '.join(bad)}")


def _check_folders(results: Path, out: Path) -> None:
    if results.resolve() == out.resolve():
        raise StoreError(f"--results and --out are both {out}; runs are copied from one to another")
    if is_evidence(results):
        raise StoreError(f"--results {results} is published; name a folder that runs wrote to")
    if not results.is_dir():
        raise StoreError(f"--results {results} is not a folder; name one that runs were written to")


def _read_run(folder: Path) -> tuple[dict[str, str] | None, str | None]:
    """Return what of a run is published, None where it cannot be read, and a remark on it."""
    try:
        reason = _why_left_out(folder)
        if reason == "":
            return _published_files(folder), _describe(folder)
    except (StoreError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return None, f": left out, it cannot be read ({error})"
    return {}, None if reason is None else f": left out, {reason}"


def _why_left_out(folder: Path) -> str | None:
    """Return why a run is not published, "" where it is; None for a folder that is no run."""
    if holder := RunFolder(folder, "").held_by():
        return f"a process is working on it ({holder})"
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


def _published_files(folder: Path) -> dict[str, str]:
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
            settings = folder / path.name.replace("answers-", "settings-").removesuffix("l")
            read_by = read_json(settings).get("eval", {}) if settings.exists() else {}
            rows = list(average_windows(rows, int(read_by.get("perplexity_window") or 1)))
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
