"""stages=[generate]: answers to questions, by nucleus sampling (paper: p 0.9, T 0.7) or greedy."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from qlora_repro.config.schema import GenerateConfig
from qlora_repro.console import note, say
from qlora_repro.data import templates
from qlora_repro.data.questions import (
    Prompt,
    Question,
    benchmark_name,
    describe_shortened,
    fit_prompts,
    load_questions,
)
from qlora_repro.data.templates import get_template
from qlora_repro.distributed.process_group import shared_failure
from qlora_repro.errors import RunError
from qlora_repro.manifest import record_origin
from qlora_repro.model.checkpoint import load_tokenizer_and_config
from qlora_repro.model.state_guard import FiniteLogits, preserve_model_state
from qlora_repro.records import Generation
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import CellRun, ModelSession
from qlora_repro.stages.judge import compares_with_base
from qlora_repro.store.cell import Cell, find_cell
from qlora_repro.store.run_id import deciding_settings
from qlora_repro.store.runs import Store

GPU_CHECK_INTERVAL = 8  # tokens that a GPU writes between two looks for turn markers


def generate_answers(
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
    chosen = list(questions if cfg.limit is None else questions[: cfg.limit])
    fitted = fit_prompts(
        chosen,
        tokenizer,
        template=cfg.template,
        max_new_tokens=cfg.max_new_tokens,
        positions=position_limit(model.config),
    )
    written: dict[int, list[int]] = {}
    with preserve_model_state(model, tokenizer):
        tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        for batch in _batches(fitted, cfg.batch_size):
            seeds = [_question_seed(seed, chosen[number].question_id) for number in batch]
            within = replace(cfg, max_new_tokens=fitted[batch[0]].room)
            sources = [fitted[number].source for number in batch]
            answers = _generate_batch(model, tokenizer, sources, cfg=within, seeds=seeds)
            written |= dict(zip(batch, answers, strict=True))
    return [
        Generation(
            run_id=run_id,
            question_id=question.question_id,
            question=question.text,
            benchmark=benchmark_name(cfg),
            category=question.category,
            lang=question.lang,
            reference=question.reference,
            seed=seed,
            room=room if (room := fitted[number].room) < cfg.max_new_tokens else None,
            cut=fitted[number].cut or None,
            **_finish_answer(
                tokenizer, written[number], _end_tokens(model, tokenizer), _turn_markers(cfg)
            ),
        )
        for number, question in enumerate(chosen)
    ]


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


def _generate_batch(
    model: Any, tokenizer: Any, sources: list[str], *, cfg: GenerateConfig, seeds: list[int]
) -> list[list[int]]:
    """Return the new token ids of each source, whatever comes after the end included."""
    read = tokenizer(sources, return_tensors="pt", padding=True)
    seq2seq = bool(model.config.is_encoder_decoder)
    start = 1 if seq2seq else read["input_ids"].shape[1]
    markers = _turn_markers(cfg)
    sampler = [NucleusSampler(seeds, p=cfg.top_p, temperature=cfg.temperature, device=model.device)]
    watch = FiniteLogits()
    every = GPU_CHECK_INTERVAL if model.device.type == "cuda" else 1
    ids = model.generate(
        input_ids=read["input_ids"].to(model.device),
        attention_mask=read["attention_mask"].to(model.device),
        generation_config=GenerationConfig(
            do_sample=False,  # Nucleus adds the noise, so the largest score is a sample
            num_beams=1,
            repetition_penalty=1.0,
            max_new_tokens=cfg.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(_end_tokens(model, tokenizer)) or None,
            use_cache=True,
        ),
        logits_processor=[watch, *sampler] if cfg.temperature > 0 else [watch],
        stopping_criteria=(
            [StopAtTurnMarkers(tokenizer, markers, start=start, every=every)] if markers else []
        ),
    )
    if failed := watch.failed_rows():
        raise RunError(
            f"the logits are not finite for the question {sources[min(failed)][-200:]!r}, so its "
            "answer would mean nothing; compute in another type, as dtype.compute_dtype=float32"
        )
    new: list[list[int]] = ids[:, start:].tolist()
    return new


class NucleusSampler(LogitsProcessor):
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
        nucleus = mask_outside_nucleus(scores.float() / self.temperature, p=self.p)  # (B, V)
        width = nucleus.shape[1]
        noise = torch.stack([torch.rand(width, generator=g, device=g.device) for g in self.streams])
        gumbel = -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))  # (B, V)
        return nucleus + gumbel.to(nucleus.device)


def mask_outside_nucleus(scores: Tensor, *, p: float) -> Tensor:
    """Return log-probabilities (B, V) with -inf outside the smallest set of mass at least p."""
    ordered, marker_starts = scores.log_softmax(-1).sort(-1, descending=True)  # (B, V)
    before = ordered.exp().cumsum(-1) - ordered.exp()  # mass of the likelier tokens
    ordered = ordered.masked_fill(before >= p, float("-inf"))  # the first one always stays
    return torch.empty_like(ordered).scatter(-1, marker_starts, ordered)


class StopAtTurnMarkers(StoppingCriteria):
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


def _finish_answer(
    tokenizer: Any, ids: list[int], ends: set[int], markers: list[str]
) -> dict[str, Any]:
    """Return answer, tokens written up to its end, and what ended it, of one row."""
    stop = next((k for k, token in enumerate(ids) if token in ends), None)
    answer_ids = ids[:stop]
    if tokenizer.pad_token_id in answer_ids:  # a row that stopped at a marker was filled up
        answer_ids = answer_ids[: answer_ids.index(tokenizer.pad_token_id)]
    raw = _decode(tokenizer, answer_ids)
    marker_starts = [place for marker in markers if (place := raw.find(marker)) >= 0]
    while any(marker in _decode(tokenizer, answer_ids[:-1]) for marker in markers):
        answer_ids = answer_ids[:-1]  # written before anyone looked
    raw = raw[: min(marker_starts, default=None)]  # first: a marker may be a special token
    for special in tokenizer.all_special_tokens:
        raw = raw.replace(special, "")
    finish = "stop" if marker_starts else "length" if stop is None else "eos"
    return {"answer": raw.strip(), "n_tokens": len(answer_ids), "finish": finish}


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _turn_markers(cfg: GenerateConfig) -> list[str]:
    return [*templates.get_template(cfg.template).stop, *cfg.stop]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Return every token that ends an answer: the tokenizer's, and the model's own."""
    eos_ids = getattr(model.generation_config, "eos_token_id", None)
    listed = [tokenizer.eos_token_id, *(eos_ids if isinstance(eos_ids, list) else [eos_ids])]
    return {token for token in listed if token is not None}


def _question_seed(seed: int, question_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{question_id}".encode()).digest()[:7], "big")


def check_generate(cell: Cell) -> None:
    """Refuse now, and not after hours of training, what cannot be answered.

    Says how many answers have less room than asked for.

    Raises:
        ConfigError: For an unknown template, and for a tuned model that is not trained and will
            not be.
        DataError: For a question that the model cannot be asked.
    """
    cfg = cell.cfg
    if cell.has_generations(tuned=cell.trains):
        return
    cell.check_trained("ask")
    get_template(cfg.generate.template)
    tokenizer, config = load_tokenizer_and_config(cfg.model)  # of weights that are not read yet
    length, positions = cfg.generate.max_new_tokens, position_limit(config)
    prompts = fit_prompts(
        load_questions(cfg.generate),
        tokenizer,
        template=cfg.generate.template,
        max_new_tokens=length,
        positions=positions,
    )
    if shortened := describe_shortened(prompts, max_new_tokens=length, positions=positions):
        note(shortened)


def run_generate(run: CellRun, *, tuned: bool) -> None:
    """Answer the questions of generate=NAME, unless the store has the answers.

    The untuned model of a cell that trains answers only where a judge compares with it.
    """
    if tuned == run.cell.trains:
        _write_answers(run, tuned=tuned)
    elif compares_with_base(run.cell.cfg):
        with run.cell.base_locked():
            _write_answers(run, tuned=tuned)


def work_generate(session: ModelSession, *, tuned: bool) -> None:
    """Answer along on a worker; rank 0 keeps the answers, and nothing is written here."""
    cell = find_cell(session.cfg, Store(Path(session.cfg.results_dir)))
    questions = load_questions(session.cfg.generate)
    session.load_for_inference(tuned=tuned)
    _answer_questions(session, questions, tuned=tuned, run_id=cell.folder_of(tuned=tuned).run_id)


def _write_answers(run: CellRun, *, tuned: bool) -> None:
    cell, cfg, session = run.cell, run.cell.cfg, run.session
    folder = cell.folder_of(tuned=tuned)
    if cell.has_generations(tuned=tuned):
        say(f"answers{'' if tuned == cell.trains else ' untuned'}: {SKIPPED}")
        return
    began, digest = time.monotonic(), cell.digest(tuned=tuned, stage="generate")
    name, questions = f"generations-{digest}.jsonl", load_questions(cfg.generate)
    session.load_for_inference(tuned=tuned)
    say(f"answering {len(questions)} questions{'' if tuned else ' untuned'}")
    folder.write_progress("answers")
    with shared_failure():
        answers = _answer_questions(session, questions, tuned=tuned, run_id=folder.run_id)
    folder.remove(name)
    stage = "generate" if tuned else "untuned_generate"
    folder.write_json(f"settings-{digest}.json", deciding_settings(cfg, stage))
    record_origin(cfg, folder, digest, session=session, began=began)
    folder.write_records(name, answers)
    cut = sum(bool(answer.room or answer.cut) for answer in answers)
    remark = f"; {cut} of {len(answers)} after a prompt too long for a whole one" if cut else ""
    say(f"answers are in {folder.path / name}{remark}")


def _answer_questions(
    session: ModelSession, questions: Sequence[Question], *, tuned: bool, run_id: str
) -> list[Generation]:
    """Answer the questions with the model of `load_for_inference`, in all processes."""
    loaded, cfg = session.start_inference("generate", tuned=tuned), session.cfg

    def answer(part: Sequence[Question]) -> list[Generation]:
        return generate_answers(
            loaded.model, loaded.tokenizer, part, cfg.generate, run_id=run_id, seed=cfg.seed
        )

    return session.distribute(questions[: cfg.generate.limit], answer)
