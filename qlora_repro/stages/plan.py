"""stages=[plan]: what a run would take, without its weights and without a GPU."""

from qlora_repro.config.schema import RunConfig
from qlora_repro.console import note, say
from qlora_repro.errors import Busy, ConfigError
from qlora_repro.memory import tables
from qlora_repro.memory.micro_batch import (
    MicroBatch,
    choose_micro_batch,
    leaves_open,
)
from qlora_repro.memory.prediction import predicted
from qlora_repro.memory.remaining_work import todo
from qlora_repro.memory.settings import card_bytes
from qlora_repro.records import MemoryPlan
from qlora_repro.store.run_id import decisive, key, slug
from qlora_repro.store.runs import open_store


def plan(cfg: RunConfig) -> MemoryPlan:
    """Predict a run's memory, show it, and leave it in the store as `plan-<digest>.jsonl`.

    Raises ConfigError for what cannot be planned, ModelError where the sizes of a model are neither
    written as model.architecture nor found in its checkpoint.
    """
    if cfg.stages != ["plan"]:
        raise ConfigError(
            f"stages is [{','.join(cfg.stages)}], and plan goes alone, as it loads nothing; write "
            "stages=[plan]"
        )
    found = predicted(cfg)
    digest = key(cfg, "plan")
    folder = open_store(cfg.results_dir).folder(slug(cfg, tuned=True), key(cfg, "train"))
    say(f"memory predicted for {tables.describe(found)}")
    say(tables.table(found))
    if cfg.scale.stand_in:
        say(f"scale=small: {cfg.scale.stand_in}")
    for line in tables.lines(found, cfg.plan, chosen=chosen_by_card(cfg)):
        say(line)
    say(todo(cfg).words(cfg.plan.usd_per_hour))
    try:
        with folder.locked():
            folder.write_json(f"settings-{digest}.json", decisive(cfg, "plan"))
            folder.write(f"plan-{digest}.jsonl", [found])
        say(f"the plan lies in {folder.path / f'plan-{digest}.jsonl'}")
    except Busy as error:
        note(f"the plan is not kept: {error}")
    return found


def chosen_by_card(cfg: RunConfig) -> dict[int, MicroBatch]:
    """Return what the planner chooses for each card; nothing where the run states it all."""
    if not leaves_open(cfg.train):
        return {}
    return {card: choose_micro_batch(cfg, card_bytes(card, cfg.plan)) for card in cfg.plan.gpus}
