"""The runs behind a table: what decided each, and where it comes from."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.cells.placed import flat
from analysis.read import MANIFEST, type_name
from qlora_repro.store.runs import read_document

UNTUNED = "-"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run as the page shows it."""

    folder: str
    digest: str  # of the settings that decided it
    document: Path  # its manifest; of a plan, its settings
    settings: dict[str, Any]  # by dotted path
    commit: str | None
    dirty: bool  # the code of some stage had uncommitted changes
    device: str | None
    versions: dict[str, str]
    note: str | None

    def row(self) -> dict[str, str]:
        """Return the line of the table of runs."""
        at = self.settings.get
        r = f" r={at('lora.r')}" if at("lora.r") else ""
        return {
            "run": self.digest,
            "model": str(at("model.name")),
            "data type": type_name(str(at("dtype.name")), bool(at("dq"))),
            "adapters": f"{at('lora.target', UNTUNED)}{r}",
            "data": str(at("data.name", UNTUNED)),
            "seed": str(at("seed", UNTUNED)),
            "commit": (self.commit or "not known")[:12]
            + (" (uncommitted changes)" if self.dirty else ""),
            "device": self.device or "not known",
        }

    def text(self) -> str:
        """Return the settings, a line each."""
        return "\n".join(f"{path} = {json.dumps(value)}" for path, value in self.settings.items())

    def packages(self) -> str:
        """Return the versions in one line."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def behind(results: Path, folders: Iterable[str]) -> list[RunFacts]:
    """Return the facts of runs by their folders; one without a document is left out."""
    found = (_facts(results / name) for name in folders)
    return [facts for facts in found if facts is not None]


def _facts(folder: Path) -> RunFacts | None:
    manifest = folder / MANIFEST
    documents = [manifest] if manifest.exists() else sorted(folder.glob("settings-*.json"))
    if not documents:
        return None
    document = read_document(documents[0])
    about = document.get("provenance", {})
    packages = about.get("packages", {})
    return RunFacts(
        folder=folder.name,
        digest=folder.name.rpartition("-")[2],
        document=documents[0],
        settings=flat(document.get("decided_by", document)),
        commit=about.get("commit"),
        dirty=any(bool(part.get("dirty")) for part in (about, *_stages(folder))),
        device=about.get("device"),
        versions={name: version for name, version in packages.items() if version},
        note=document.get("model", {}).get("note"),
    )


def _stages(folder: Path) -> list[dict[str, Any]]:
    """Return how each stage of a run came about."""
    return [read_document(path) for path in sorted(folder.glob("origin-*.json"))]
