"""The chat half of a run: answers to questions, and a judge who compares them."""

import time
from collections.abc import Sequence
from pathlib import Path

from qlora_repro import manifest
from qlora_repro.config import RunConfig
from qlora_repro.console import note, say
from qlora_repro.data.prompts import find
from qlora_repro.data.questions import Question, questions
from qlora_repro.data.room import describe_shortened, fit_prompts
from qlora_repro.errors import ConfigError
from qlora_repro.finished import SKIPPED
from qlora_repro.generate import generate, position_limit
from qlora_repro.judge import stage as judging
from qlora_repro.judge.outcome import Standing
from qlora_repro.judge.request import check, read_key
from qlora_repro.live import Live
from qlora_repro.model.description import load_description
from qlora_repro.records import Generation
from qlora_repro.store.done import Cell, find_cell
from qlora_repro.store.identity import decisive
from qlora_repro.store.runs import Store, open_store
from qlora_repro.together import in_step


def foresee(cell: Cell) -> None:
    """Refuse now, and not after hours of training, what the answers and their judge will need.

    Raises ConfigError for a template that is none and for a judge that lacks its key, DataError for
    a question that the model cannot be asked. Says how many answers have less room than asked for.
    """
    if "generate" in cell.cfg.stages and not cell.answered(tuned=cell.trains):
        _foresee_rooms(cell.cfg)
    judge = cell.cfg.judge
    begins = set(cell.missing()) - {"judge"}  # verdicts in the store need no key
    if "judge" in cell.cfg.stages and judge.kind == "openai" and begins:
        check(judge)
        read_key(judge)


def _foresee_rooms(cfg: RunConfig) -> None:
    """Fit every prompt into the model, whose weights are not read yet."""
    find(cfg.generate.template)
    tokenizer, config = load_description(cfg.model)
    most, positions = cfg.generate.max_new_tokens, position_limit(config)
    fitted = fit_prompts(
        questions(cfg.generate),
        tokenizer,
        template=cfg.generate.template,
        max_new_tokens=most,
        positions=positions,
    )
    if shortened := describe_shortened(fitted, max_new_tokens=most, positions=positions):
        note(shortened)


def answer(cell: Cell, live: Live, *, tuned: bool) -> None:
    """Answer the questions of generate=NAME, if the run has that stage and the store no answers."""
    cfg, folder = cell.cfg, cell.of(tuned=tuned)
    if "generate" not in cfg.stages:
        return
    if cell.answered(tuned=tuned):
        say(f"answers{'' if tuned == cell.trains else ' untuned'}: {SKIPPED}")
        return
    if tuned and not cell.trained():
        raise ConfigError(
            f"{folder.path} has not been trained; add train to stages, or train=none to ask the "
            "untuned model alone"
        )
    began, digest = time.monotonic(), cell.digest(tuned=tuned, stage="generate")
    name, asked = f"generations-{digest}.jsonl", questions(cfg.generate)
    live.to_score(tuned=tuned)
    say(f"answering {len(asked)} questions{'' if tuned else ' untuned'}")
    folder.note_progress("answers")
    with in_step():
        written = _generate(live, asked, tuned=tuned, run_id=folder.run_id)
    folder.drop(name)
    stage = "generate" if tuned else "untuned_generate"
    folder.write_json(f"settings-{digest}.json", decisive(cfg, stage))
    manifest.origin(cfg, folder, digest, live=live, began=began)
    folder.write(name, written)
    short = sum(bool(answer.room or answer.cut) for answer in written)
    less = f"; {short} of {len(written)} after a prompt too long for a whole one" if short else ""
    say(f"answers lie in {folder.path / name}{less}")


def answer_along(cfg: RunConfig, *, tuned: bool) -> None:
    """Answer along on a rank other than 0, which keeps the answers; nothing is written."""
    cell = find_cell(cfg, Store(Path(cfg.results_dir)))
    live, done = Live(cfg, cell.folder.path), False
    asked = questions(cfg.generate)
    try:
        live.to_score(tuned=tuned)
        _generate(live, asked, tuned=tuned, run_id=cell.of(tuned=tuned).run_id)
        done = True
    finally:
        live.release(keep=done)


def _generate(
    live: Live, asked: Sequence[Question], *, tuned: bool, run_id: str
) -> list[Generation]:
    """Answer the questions with the model of `to_score`, in all processes."""
    loaded, cfg = live.divide("answer", tuned=tuned), live.cfg

    def answer_some(some: Sequence[Question]) -> list[Generation]:
        return generate(
            loaded.model, loaded.tokenizer, some, cfg.generate, run_id=run_id, seed=cfg.seed
        )

    return live.distribute(asked[: cfg.generate.limit], answer_some)


def answer_for_judge(cell: Cell, live: Live) -> None:
    """Answer untuned too, where the judge is to compare with that; before anything trains."""
    cfg = cell.cfg
    if "judge" not in cfg.stages or cfg.judge.run is not None:
        return
    if judging.BASE in judging.opponents(cfg.judge):
        with cell.base_claimed():
            answer(cell, live, tuned=False)


def judged(cell: Cell) -> Sequence[Standing]:
    """Return how this run, or the one that judge.run names, stands against each opponent."""
    cfg = cell.cfg
    if "judge" not in cfg.stages:
        return []
    asks = cfg.generate.name != "none"
    case = judging.Case(
        store=open_store(cfg.results_dir),
        tuned=cell.folder,
        base=cell.base,
        asked=questions(cfg.generate) if asks else [],
        settings=decisive(cfg, "generate")["generate"] if asks else None,
    )
    return judging.judge(cfg.judge, case)
