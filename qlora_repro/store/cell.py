"""What the store has of a cell: the files that each stage leaves, and which stages are missing."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qlora_repro.config.schema import RunConfig
from qlora_repro.errors import Busy, ConfigError, StoreError
from qlora_repro.store.integrity import describe_incomplete, is_complete
from qlora_repro.store.provenance import changed_versions
from qlora_repro.store.run_id import run_id_of, run_name, stage_digest
from qlora_repro.store.runs import FAILURE, RunFolder, Store, open_store, read_note

MANIFEST = "manifest.json"
STEPS = "steps.jsonl"  # the loss curve
TRAINED = "train.json"  # written last: the mark that training is done
ADAPTER = "adapter"  # what a run publishes: LoRA weights
MODEL = "model"  # or, after full fine-tuning, all weights
MERGED = "merged"
UNTRAINED = "has not been trained"
RERUN_VERSIONS = "versions"  # rerun=versions: what other versions made is made again


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A configuration beside the folders that hold its results."""

    cfg: RunConfig
    base: RunFolder  # of the untuned model, shared by every run on it
    folder: RunFolder  # of the tuned one; the same where nothing is trained

    def check_folders(self) -> None:
        """Refuse folders that are another run's, renamed or swapped; StoreError."""
        for folder in (self.base, self.folder):
            check_run_folder(folder.path)

    @property
    def trains(self) -> bool:
        """Whether there is a tuned model at all."""
        return self.folder is not self.base

    @contextmanager
    def locked(self, *, wait: bool) -> Iterator[None]:
        """Hold the run for this process; Busy when another has it, unless it may wait."""
        with self.folder.locked(wait=wait):
            self.folder.remove(FAILURE)  # it is tried again
            yield

    def forget_failure(self) -> None:
        """Drop the note of a failure once all that is asked for is done, unless it is locked."""
        if (self.folder.path / FAILURE).exists():
            with suppress(Busy, OSError), self.locked(wait=False):
                pass

    @contextmanager
    def base_locked(self) -> Iterator[None]:
        """Hold the untuned model's folder, as part of a locked cell; wait for it."""
        with self.base.locked(wait=True) if self.trains else nullcontext():
            yield

    def digest(self, *, tuned: bool, stage: str) -> str:
        """Return the digest in the file names of an evaluation or of answers."""
        name = stage if tuned else f"untuned_{stage}"
        if name not in self._digests:
            self._digests[name] = stage_digest(self.cfg, name)
        return self._digests[name]

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}  # computed once: it reads the user's own files

    def folder_of(self, *, tuned: bool) -> RunFolder:
        """Return the folder of the tuned or the untuned model."""
        return self.folder if tuned else self.base

    def is_trained(self, *, contents: bool = False) -> bool:
        """Whether training is done; with `contents` every byte of the weights is checked."""
        reason = self._describe_untrained(contents=contents)
        if reason is not None and reason != UNTRAINED and self.folder.warn is not None:
            self.folder.warn(f"{reason}; training is done again")
        return reason is None and self._is_current(self.folder, "train")

    def check_trained(self, purpose: str) -> None:
        """Refuse to score or to ask a tuned model that is not trained and will not be."""
        if not self.trains or "train" in self.cfg.stages:
            return
        if reason := self._describe_untrained(contents=True):
            subject = f"{self.folder.path} {reason}" if reason == UNTRAINED else reason
            raise ConfigError(
                f"{subject}; add train to stages, or train=none to {purpose} the untuned model "
                "alone"
            )

    def _describe_untrained(self, *, contents: bool) -> str | None:
        """Return in words why there are no weights to use; None where there are."""
        files = [self.folder.has(name) for name in (TRAINED, MANIFEST, STEPS)]  # each is reported
        weights = self.folder.path / (MODEL if self.cfg.full_finetuning else ADAPTER)
        if not all(files) or not weights.is_dir():
            return UNTRAINED
        reason = describe_incomplete(weights, contents=contents)
        return None if reason is None else f"{weights} {reason}"

    def is_evaluated(self, *, tuned: bool) -> bool:
        """Whether the evaluation of the tuned or the untuned model is done."""
        folder, digest = self.folder_of(tuned=tuned), self.digest(tuned=tuned, stage="eval")
        names = [f"{kind}-{digest}.jsonl" for kind in ("metrics", "answers")]
        if (folder.path / names[0]).exists():  # or it was never begun
            names += [f"settings-{digest}.json", *([] if tuned else [MANIFEST])]
        return all(map(folder.has, names)) and self._is_current(folder, digest)

    def has_generations(self, *, tuned: bool) -> bool:
        """Whether the tuned or the untuned model has answered the questions."""
        folder, digest = self.folder_of(tuned=tuned), self.digest(tuned=tuned, stage="generate")
        return folder.has(f"generations-{digest}.jsonl") and self._is_current(folder, digest)

    def missing_stages(self) -> list[str]:
        """Return in words the stages asked for that are not done, or not known here."""
        missing = []
        for stage in self.cfg.stages:
            if stage == "train":
                missing += ["training"] * (self.trains and not self.is_trained())
            elif stage == "eval":
                missing += ["scores before tuning"] * (not self.is_evaluated(tuned=False))
                missing += ["scores after tuning"] * (
                    self.trains and not self.is_evaluated(tuned=True)
                )
            elif stage == "generate":
                missing += ["answers"] * (not self.has_generations(tuned=self.trains))
            else:
                missing.append(stage)
        merged = self.folder.path / MERGED
        return missing + ["merging"] * (self.cfg.merge and not is_complete(merged, contents=False))

    def changed_versions(self) -> dict[str, list[str]]:
        """Return finished stage -> packages that have another version by now."""
        stages = {"training": (self.folder, "train")} if self.trains else {}
        stages["scores before tuning"] = self.base, self.digest(tuned=False, stage="eval")
        if self.trains:
            stages["scores after tuning"] = self.folder, self.digest(tuned=True, stage="eval")
        stages["answers"] = self.folder, self.digest(tuned=self.trains, stage="generate")
        changed = {name: changed_versions(*stage) for name, stage in stages.items()}
        return {name: packages for name, packages in changed.items() if packages}

    def _is_current(self, folder: RunFolder, stage: str) -> bool:
        return self.cfg.rerun != RERUN_VERSIONS or not changed_versions(folder, stage)


def describe_other_run(path: Path) -> str | None:
    """Return in words that a run's folder has the name of another run; None where it has its own.

    A manifest says which run wrote it; a folder without one holds nothing that could be mistaken.
    """
    written, named = (read_note(path / MANIFEST) or {}).get("run_id"), run_id_of(path.name)
    if written is None or written == named or named == path.name:
        return None
    return (
        f"{path} holds run {written}, as its {MANIFEST} says, and not {named}: it was renamed or "
        "swapped; give it its own name again, or delete it"
    )


def check_run_folder(path: Path) -> None:
    """Refuse a folder that has the name of another run; StoreError."""
    if reason := describe_other_run(path):
        raise StoreError(reason)


def find_cell(cfg: RunConfig, store: Store | None = None) -> Cell:
    """Return a configuration with its folders, which need not be there yet.

    The store is the one of results_dir unless another is given.
    """
    store = open_store(cfg.results_dir) if store is None else store
    base = store.folder(run_name(cfg, tuned=False), stage_digest(cfg, "untuned"))
    if not cfg.train.max_steps:
        return Cell(cfg=cfg, base=base, folder=base)
    tuned = store.folder(run_name(cfg, tuned=True), stage_digest(cfg, "train"))
    return Cell(cfg=cfg, base=base, folder=tuned)
