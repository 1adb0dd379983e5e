"""stages=[plan]: what a run would take, without its weights and without a GPU."""

from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, say
from qlora_repro.errors import Busy, ConfigError
from qlora_repro.memory import tables
from qlora_repro.memory.prediction import (
    MicroBatch,
    choose_micro_batch,
    is_micro_batch_open,
    predict_memory,
)
from qlora_repro.memory.remaining_work import estimate_remaining_work
from qlora_repro.memory.settings import usable_bytes
from qlora_repro.records import MemoryPlan
from qlora_repro.store.run_id import deciding_settings, run_name, stage_digest
from qlora_repro.store.runs import open_store


def check_plan(cfg: RunConfig) -> None:
    """Refuse a plan beside other stages; ConfigError."""
    if cfg.stages != ["plan"]:
        raise ConfigError(
            f"stages is [{','.join(cfg.stages)}], and plan goes alone, as it loads nothing; write "
            "stages=[plan]"
        )


def run_plan(cfg: RunConfig) -> MemoryPlan:
    """Predict a run's memory, show it, and leave it in the store as `plan-<digest>.jsonl`.

    Raises:
        ConfigError: For what cannot be planned.
        ModelError: Where the sizes of a model are neither written as model.architecture nor found
            in its checkpoint.
    """
    check_plan(cfg)
    plan, digest = predict_memory(cfg), stage_digest(cfg, "plan")
    folder = open_store(cfg.results_dir).folder(
        run_name(cfg, tuned=True), stage_digest(cfg, "train")
    )
    say(f"memory predicted for {tables.describe_run(plan)}")
    say(tables.build_breakdown_table(plan))
    if cfg.scale.stand_in:
        say(f"scale=small: {cfg.scale.stand_in}")
    for line in tables.describe_plan(plan, cfg.plan, micro_batches=choose_micro_batches(cfg)):
        say(line)
    say(estimate_remaining_work(cfg).describe(cfg.plan.usd_per_hour))
    try:
        with folder.locked():
            folder.write_json(f"settings-{digest}.json", deciding_settings(cfg, "plan"))
            folder.write_records(f"plan-{digest}.jsonl", [plan])
        say(f"the plan is in {folder.path / f'plan-{digest}.jsonl'}")
    except Busy as error:
        note(f"the plan is not kept: {error}")
    return plan


def choose_micro_batches(cfg: RunConfig) -> dict[int, MicroBatch]:
    """Return what the planner chooses for each card; nothing where the run states it all."""
    if not is_micro_batch_open(cfg.train):
        return {}
    return {card: choose_micro_batch(cfg, usable_bytes(card, cfg.plan)) for card in cfg.plan.gpus}
