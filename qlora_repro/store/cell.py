"""What the store has of a cell: the files that each stage leaves, and which stages are missing."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from qlora_repro.config.schema import RunConfig
from qlora_repro.store.integrity import MARK, whole
from qlora_repro.store.progress import FAILED
from qlora_repro.store.provenance import other_versions
from qlora_repro.store.run_id import key, slug
from qlora_repro.store.runs import Folder, Store, open_store

MANIFEST = "manifest.json"
STEPS = "steps.jsonl"  # the loss curve
TRAINED = "train.json"  # written last: the mark that training is done
ADAPTER = "adapter"  # what a run publishes: LoRA weights
MODEL = "model"  # or, after full fine-tuning, all weights
MERGED = "merged"
VERSIONS = "versions"  # rerun=versions: what other versions made is made again


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A configuration beside the folders that hold its results."""

    cfg: RunConfig
    base: Folder  # of the untuned model, shared by every run on it
    folder: Folder  # of the tuned one; the same where nothing is trained

    @property
    def trains(self) -> bool:
        """Whether there is a tuned model at all."""
        return self.folder is not self.base

    @contextmanager
    def claimed(self, *, wait: bool) -> Iterator[None]:
        """Hold the run for this process; Busy when another has it, unless it may wait."""
        with self.folder.locked(wait=wait):
            self.folder.drop(FAILED)  # it is tried again
            yield

    @contextmanager
    def base_claimed(self) -> Iterator[None]:
        """Hold the untuned model's folder, as part of a claimed cell; wait for it."""
        with self.base.locked(wait=True) if self.trains else nullcontext():
            yield

    def digest(self, *, tuned: bool, stage: str) -> str:
        """Return the digest in the file names of an evaluation or of answers."""
        name = stage if tuned else f"untuned_{stage}"
        if name not in self._digests:
            self._digests[name] = key(self.cfg, name)
        return self._digests[name]

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}  # taken once: it reads the user's own files, and names files throughout the cell

    def of(self, *, tuned: bool) -> Folder:
        """Return the folder of the tuned or the untuned model."""
        return self.folder if tuned else self.base

    def trained(self, *, contents: bool = False) -> bool:
        """Whether training is done; with `contents` every byte of the weights is checked."""
        here = [self.folder.has(name) for name in (TRAINED, MANIFEST, STEPS)]  # each torn one named
        published = self.folder.path / (MODEL if self.cfg.full_finetuning else ADAPTER)
        if not all(here) or not published.is_dir():
            return False
        if (published / MARK).exists() and not whole(published, contents=contents):
            if self.folder.told is not None:
                self.folder.told(f"{published} is torn; training is done again")
            return False
        return self._current(self.folder, "train")

    def scored(self, *, tuned: bool) -> bool:
        """Whether the evaluation of the tuned or the untuned model is done."""
        folder, digest = self.of(tuned=tuned), self.digest(tuned=tuned, stage="eval")
        names = [f"{kind}-{digest}.jsonl" for kind in ("metrics", "answers")]
        if (folder.path / names[0]).exists():  # or it was never begun
            names += [f"settings-{digest}.json", *([] if tuned else [MANIFEST])]
        return all(map(folder.has, names)) and self._current(folder, digest)

    def answered(self, *, tuned: bool) -> bool:
        """Whether the tuned or the untuned model has answered the questions."""
        folder, digest = self.of(tuned=tuned), self.digest(tuned=tuned, stage="generate")
        return folder.has(f"generations-{digest}.jsonl") and self._current(folder, digest)

    def missing(self) -> list[str]:
        """Return in words the stages asked for that are not done, or not known here."""
        found = []
        for stage in self.cfg.stages:
            if stage == "train":
                found += ["training"] * (self.trains and not self.trained())
            elif stage == "eval":
                found += ["scores before tuning"] * (not self.scored(tuned=False))
                found += ["scores after tuning"] * (self.trains and not self.scored(tuned=True))
            elif stage == "generate":
                found += ["answers"] * (not self.answered(tuned=self.trains))
            else:
                found.append(stage)
        merged = self.folder.path / MERGED
        return found + ["merging"] * (self.cfg.merge and not whole(merged, contents=False))

    def made_by_others(self) -> dict[str, list[str]]:
        """Return finished stage -> packages that have another version by now."""
        digests = {"training": (self.folder, "train")} if self.trains else {}
        digests["scores before tuning"] = self.base, self.digest(tuned=False, stage="eval")
        if self.trains:
            digests["scores after tuning"] = self.folder, self.digest(tuned=True, stage="eval")
        digests["answers"] = self.folder, self.digest(tuned=self.trains, stage="generate")
        found = {name: other_versions(*where) for name, where in digests.items()}
        return {name: changed for name, changed in found.items() if changed}

    def _current(self, folder: Folder, stage: str) -> bool:
        return self.cfg.rerun != VERSIONS or not other_versions(folder, stage)


def find_cell(cfg: RunConfig, store: Store | None = None) -> Cell:
    """Return a configuration with its folders, which need not be there yet.

    The store is the one of results_dir unless another is given.
    """
    store = open_store(cfg.results_dir) if store is None else store
    base = store.folder(slug(cfg, tuned=False), key(cfg, "untuned"))
    tuned = store.folder(slug(cfg, tuned=True), key(cfg, "train")) if cfg.train.max_steps else base
    return Cell(cfg=cfg, base=base, folder=tuned)
