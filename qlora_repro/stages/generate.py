"""Answers to a question file: nucleus sampling (paper: p 0.9, T 0.7) or greedy, in batches.

The chat half of a run: answers to questions, and a judge who compares them.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from qlora_repro import manifest
from qlora_repro.config.schema import GenerateConfig, RunConfig
from qlora_repro.console import note, say
from qlora_repro.data import templates
from qlora_repro.data.questions import (
    Prompt,
    Question,
    benchmark,
    describe_shortened,
    fit_prompts,
    questions,
)
from qlora_repro.data.templates import find
from qlora_repro.distributed.process_group import in_step
from qlora_repro.errors import ConfigError
from qlora_repro.judge.client.request import check, read_key
from qlora_repro.judge.result_table import Standing
from qlora_repro.model.checkpoint import load_description
from qlora_repro.records import Generation
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import Live
from qlora_repro.stages import judge as judging
from qlora_repro.store.cell import Cell, find_cell
from qlora_repro.store.run_id import decisive
from qlora_repro.store.runs import Store, open_store

EVERY = 8  # tokens that a GPU writes between two looks for turn markers


def generate(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    cfg: GenerateConfig,
    *,
    run_id: str,
    seed: int,
) -> list[Generation]:
    """Answer each question once, in the order given; temperature 0 is greedy.

    Each question has its own random stream, made from `seed` and its id: an answer depends neither
    on the random state found, which stays as it is, nor (up to rounding) on the rest of its batch.
    An answer ends at end of sequence, before a turn marker (the template's, then `cfg.stop`), or
    after `cfg.max_new_tokens`, or fewer where a long prompt leaves no more. Raises DataError for a
    question that does not fit the model at all.
    """
    _check(cfg)
    chosen = list(questions if cfg.limit is None else questions[: cfg.limit])
    fitted = fit_prompts(
        chosen,
        tokenizer,
        template=cfg.template,
        max_new_tokens=cfg.max_new_tokens,
        positions=position_limit(model.config),
    )
    written: dict[int, list[int]] = {}
    with _ready(model, tokenizer):
        for batch in _batches(fitted, cfg.batch_size):
            seeds = [_stream(seed, chosen[number].question_id) for number in batch]
            within = replace(cfg, max_new_tokens=fitted[batch[0]].room)
            sources = [fitted[number].source for number in batch]
            answers = _answer(model, tokenizer, sources, cfg=within, seeds=seeds)
            written |= dict(zip(batch, answers, strict=True))
    return [
        Generation(
            run_id=run_id,
            question_id=question.question_id,
            question=question.text,
            benchmark=benchmark(cfg),
            category=question.category,
            lang=question.lang,
            reference=question.reference,
            seed=seed,
            room=room if (room := fitted[number].room) < cfg.max_new_tokens else None,
            cut=fitted[number].cut or None,
            **_finish(tokenizer, written[number], _ends(model, tokenizer), _markers(cfg)),
        )
        for number, question in enumerate(chosen)
    ]


def _check(cfg: GenerateConfig) -> None:
    least = {"temperature": 0, "top_p": 1e-6, "max_new_tokens": 1, "batch_size": 1}
    for name, lowest in least.items():
        value = getattr(cfg, name)
        if value < lowest or (name == "top_p" and value > 1):
            upper = " and at most 1" if name == "top_p" else ""
            raise ConfigError(f"generate.{name} is {value}, and must be at least {lowest}{upper}")


def position_limit(config: Any) -> int | None:
    """Return how many tokens a model tells apart, prompt and answer together; None: any number."""
    limit: int | None = getattr(config, "max_position_embeddings", None)
    return limit


def _batches(fitted: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Yield the numbers of prompts of like length whose answers have the same room."""
    order = sorted(range(len(fitted)), key=lambda number: -fitted[number].length)
    for _, group in groupby(order, key=lambda number: fitted[number].room):
        numbers = list(group)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


@contextmanager
def _ready(model: Any, tokenizer: Any) -> Iterator[None]:
    """Evaluation mode and left padding for the body; both come back as they were."""
    modes = [(module, module.training) for module in model.modules()]
    side, pad = tokenizer.padding_side, tokenizer.pad_token
    try:
        model.eval()
        tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
        if pad is None:
            tokenizer.pad_token = tokenizer.eos_token
        yield
    finally:
        for module, training in modes:
            module.training = training
        tokenizer.padding_side = side
        if tokenizer.pad_token != pad:
            tokenizer.pad_token = pad


def _answer(
    model: Any, tokenizer: Any, sources: list[str], *, cfg: GenerateConfig, seeds: list[int]
) -> list[list[int]]:
    """Return the new token ids of each source, whatever comes after the end included."""
    read = tokenizer(sources, return_tensors="pt", padding=True)
    seq2seq = bool(model.config.is_encoder_decoder)
    start = 1 if seq2seq else read["input_ids"].shape[1]
    markers = _markers(cfg)
    sampler = [Nucleus(seeds, p=cfg.top_p, temperature=cfg.temperature, device=model.device)]
    every = EVERY if model.device.type == "cuda" else 1
    ids = model.generate(
        input_ids=read["input_ids"].to(model.device),
        attention_mask=read["attention_mask"].to(model.device),
        generation_config=GenerationConfig(
            do_sample=False,  # Nucleus adds the noise, so the largest score is a sample
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=cfg.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(_ends(model, tokenizer)) or None,
            use_cache=True,
        ),
        logits_processor=sampler if cfg.temperature > 0 else [],
        stopping_criteria=(
            [TurnMarkers(tokenizer, markers, start=start, every=every)] if markers else []
        ),
    )
    new: list[list[int]] = ids[:, start:].tolist()
    return new


class Nucleus(LogitsProcessor):
    """Turn the largest score into a nucleus sample (Holtzman et al. 2020), one stream a row.

    The largest log-probability plus Gumbel noise is an exact sample. The noise is drawn where the
    scores are, so that no token waits for the CPU: a GPU samples other answers than a CPU.
    """

    def __init__(
        self, seeds: Sequence[int], *, p: float, temperature: float, device: Any = "cpu"
    ) -> None:
        self.streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.p = p
        self.temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        kept = nucleus(scores.float() / self.temperature, p=self.p)  # (B, V)
        width = kept.shape[1]
        noise = torch.stack([torch.rand(width, generator=g, device=g.device) for g in self.streams])
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))  # (B, V)
        return kept + gumbel.to(kept.device)


def nucleus(scores: Tensor, *, p: float) -> Tensor:
    """Return log-probabilities (B, V) with -inf outside the smallest set of mass at least p."""
    ordered, places = scores.log_softmax(-1).sort(-1, descending=True)  # (B, V)
    before = ordered.exp().cumsum(-1) - ordered.exp()  # mass of the likelier tokens
    ordered = ordered.masked_fill(before >= p, float("-inf"))  # the first one always stays
    return torch.empty_like(ordered).scatter(-1, places, ordered)


class TurnMarkers(StoppingCriteria):
    """End a row once its new text holds one of the markers, looked for at `every` so many tokens.

    A look reads tokens back from a GPU, which waits for it; what a row writes after its marker,
    before the next look, is cut off.
    """

    def __init__(
        self, tokenizer: Any, markers: Sequence[str], *, start: int, every: int = 1
    ) -> None:
        self.tokenizer = tokenizer
        self.markers = list(markers)
        self.start = start
        self.every = every
        longest = max(len(marker.encode()) for marker in markers)
        self.tail = longest + every  # a token has a byte or more

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if (input_ids.shape[1] - self.start) % self.every:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        tails = input_ids[:, self.start :][:, -self.tail :]
        texts = self.tokenizer.batch_decode(tails, skip_special_tokens=False)
        done = [any(marker in text for marker in self.markers) for text in texts]
        return torch.tensor(done, device=input_ids.device)  # (B,)


def _finish(tokenizer: Any, ids: list[int], ends: set[int], markers: list[str]) -> dict[str, Any]:
    """Return answer, tokens written up to its end, and what ended it, of one row."""
    stop = next((k for k, token in enumerate(ids) if token in ends), None)
    own = ids[:stop]
    if tokenizer.pad_token_id in own:  # a row that stopped at a marker was filled up
        own = own[: own.index(tokenizer.pad_token_id)]
    raw = _decode(tokenizer, own)
    places = [place for marker in markers if (place := raw.find(marker)) >= 0]
    while any(marker in _decode(tokenizer, own[:-1]) for marker in markers):
        own = own[:-1]  # written before anyone looked
    raw = raw[: min(places, default=None)]  # cut first: a marker may itself be a special token
    for special in tokenizer.all_special_tokens:
        raw = raw.replace(special, "")
    finish = "stop" if places else "length" if stop is None else "eos"
    return {"answer": raw.strip(), "n_tokens": len(own), "finish": finish}


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _markers(cfg: GenerateConfig) -> list[str]:
    return [*templates.find(cfg.template).stop, *cfg.stop]


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Return every token that ends an answer: the tokenizer's, and the model's own."""
    own = getattr(model.generation_config, "eos_token_id", None)
    listed = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return {token for token in listed if token is not None}


def _stream(seed: int, question_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{question_id}".encode()).digest()[:7], "big")


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
