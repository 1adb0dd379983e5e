"""Runs as evidence: what a run recorded, in a form that is small enough to keep with the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from qlora_repro.errors import StoreError
from qlora_repro.store.integrity import MARK, write_vouched, write_whole
from qlora_repro.store.load import MANIFEST, manifests, settings
from qlora_repro.store.runs import in_blocks, open_store, read_document, read_lines

LEFT = ("whole.json", "progress.json", "summary-", "generations-")
WEIGHTS = ("adapter", "model")  # of which the digests are kept


def publish(results: Path, out: Path) -> Iterator[str]:
    """Copy every finished run and plan of a results folder into another; yield a sentence on each.

    All records, settings and manifests come along, and the digests of the weights; the weights and
    generated texts do not. A text's tokens are averaged over the blocks that statistics draw. Of
    paths, "." is where the command was given, "~" the home. Runs that are there already are written
    again. Raises StoreError for records that are torn.
    """
    if results.resolve() == out.resolve():
        raise StoreError(f"--results and --out are both {out}; runs are copied from one to another")
    found = list(manifests(results))
    plans = sorted({path.parent for path in results.glob("*/plan-*.jsonl")})
    open_store(out)
    for folder, manifest in found:
        if "train" in manifest["decided_by"] and not (folder / "train.json").exists():
            yield f"{folder.name}: left out, its training is not finished"
            continue
        if not any(folder.glob("*.jsonl")):
            yield f"{folder.name}: left out, nothing was measured"
            continue
        _copy(folder, out / folder.name)
        dirty = manifest["provenance"]["dirty"]
        yield folder.name + (": of code with uncommitted changes" if dirty else "")
    for folder in plans:
        if not (folder / MANIFEST).exists():
            _copy(folder, out / folder.name)
            yield f"{folder.name}: a plan"


def _copy(folder: Path, into: Path) -> None:
    given = {str(read_document(path)["folder"]) for path in folder.glob("origin-*.json")}
    for path in sorted(folder.glob("*.json*")):
        if path.name.startswith(LEFT):
            continue
        read_document(path) if path.suffix == ".json" else read_lines(path)  # or it is torn
        answers = path.name.startswith("answers-")
        text = _answers(path) if answers else path.read_text(encoding="utf-8")
        write_vouched(into / path.name, _anywhere(text, given) if path.suffix == ".json" else text)
    for marked in [folder / name / MARK for name in WEIGHTS]:
        if marked.exists():
            write_whole(into / marked.parent.name / MARK, marked.read_text(encoding="utf-8"))


def _anywhere(text: str, given: set[str]) -> str:
    """Return a document without the paths of one machine.

    >>> _anywhere('{"folder": "/x/y", "of": ["/x/y/a.csv", "/x/yz"]}', {"/x/y"})
    '{"folder": ".", "of": ["./a.csv", "/x/yz"]}'
    """
    for path, sign in [*((path, ".") for path in sorted(given)), (str(Path.home()), "~")]:
        text = re.sub(rf'(?<![\w./-]){re.escape(path)}(?=["/])', sign, text)
    return text


def _answers(path: Path) -> str:
    folder, digest = path.parent, path.stem.rpartition("-")[2]
    asked = settings(folder.parent, folder.name, digest).get("eval", {})
    size = int(asked.get("perplexity_window") or 1)
    return "".join(json.dumps(row) + "\n" for row in in_blocks(read_lines(path), size))
