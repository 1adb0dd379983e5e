"""stages=[eval]: the scores of the untuned model, and of the tuned one."""

import time

from qlora_repro.console import progress, say
from qlora_repro.distributed.process_group import shared_failure
from qlora_repro.eval.evaluate import EvalContext, evaluate_model
from qlora_repro.eval.perplexity import load_reference
from qlora_repro.manifest import describe_base_model, device_name, record_origin
from qlora_repro.reporting.stored_result import SKIPPED
from qlora_repro.session import CellRun, ModelSession, load_rows
from qlora_repro.store.cell import MANIFEST, Cell
from qlora_repro.store.run_id import deciding_settings


def check_eval(cell: Cell) -> None:
    """Refuse to score a tuned model that is not trained and will not be; read the held-out rows.

    Raises:
        ConfigError: Where `train` is missing from the stages.
        DataError: For rows that cannot be read.
    """
    cell.check_trained("score")
    load_rows(cell.cfg)


def run_eval(run: CellRun, *, tuned: bool) -> None:
    """Score the untuned or the tuned model, unless the store has the scores."""
    if tuned:
        _evaluate(run, tuned=True)
    else:
        with run.cell.base_locked():
            _evaluate(run, tuned=False)


def work_eval(session: ModelSession, *, tuned: bool) -> None:
    """Score along on a worker; rank 0 keeps the scores, and nothing is written here."""
    cfg = session.cfg
    held_out = load_rows(cfg)[1]
    session.load_for_inference(tuned=tuned)
    loaded = session.start_inference("eval", tuned=tuned)
    compares = not tuned and not session.sharded  # else rank 0 alone compares with the reference
    context = EvalContext(
        held_out=held_out,
        reference=load_reference(cfg.model, cfg.dtype, cfg.eval) if compares else None,
        distribute=session.distribute,
    )
    evaluate_model(loaded.model, loaded.tokenizer, cfg.eval, run_id="", context=context)


def _evaluate(run: CellRun, *, tuned: bool) -> None:
    cell, cfg, session = run.cell, run.cell.cfg, run.session
    folder, digest = cell.folder_of(tuned=tuned), cell.digest(tuned=tuned, stage="eval")
    title = "scores after tuning" if tuned else "scores before tuning"
    if cell.is_evaluated(tuned=tuned):
        say(f"{title}: {SKIPPED}")
        return
    began, held_out = time.monotonic(), load_rows(cfg)[1]
    loaded = session.load_for_inference(tuned=tuned)
    manifest = None if tuned or folder.has(MANIFEST) else describe_base_model(cfg, loaded)
    folder.write_progress(title)
    with shared_failure(), progress(title) as on_progress:
        loaded = session.start_inference("eval", tuned=tuned)
        if manifest is not None:
            manifest = manifest.on_device(device_name(loaded.model))  # sharding moved the model
            folder.write_json(MANIFEST, manifest.to_json())
        metrics, answers = evaluate_model(
            loaded.model,
            loaded.tokenizer,
            cfg.eval,
            run_id=folder.run_id,
            context=EvalContext(
                held_out=held_out,
                reference=None if tuned else load_reference(cfg.model, cfg.dtype, cfg.eval),
                distribute=session.distribute,
            ),
            on_progress=on_progress,
        )
    folder.remove(f"metrics-{digest}.jsonl")
    folder.write_json(
        f"settings-{digest}.json", deciding_settings(cfg, "eval" if tuned else "untuned_eval")
    )
    folder.write_records(f"answers-{digest}.jsonl", answers)
    record_origin(cfg, folder, digest, session=session, began=began)
    # last: the mark that this evaluation is done
    folder.write_records(f"metrics-{digest}.jsonl", metrics)
