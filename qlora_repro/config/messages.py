"""Hydra's and OmegaConf's complaints as one sentence, with what would be right."""

import difflib
import re
from collections.abc import Sequence

from hydra.errors import MissingConfigException, OverrideParseException

from qlora_repro.config import validate

FEW = 12  # of more options than these, an error names the nearest only
EXTRAS = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
}


def explain(error: Exception) -> str:
    """Return Hydra's or OmegaConf's complaint as one sentence with the nearest valid name."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return _unknown_option(group, name, error.options or [])
    found = re.search(
        r"Could not (?:override|append to config\.[^']*|delete from config\.[^']*) ?'([^']+)'", text
    )
    if found:
        return validate.unknown_key(found[1].lstrip("+~"))
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read; write KEY=VALUE, as in dtype=nf4 or train.lr=1e-4"
        )
    if found := re.match(r"(\S+) appears more than once in the final defaults", text):
        return f"{found[1]} is given twice; write {found[1]}=OPTION once and without +"
    if found := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]} has more than one value, which is a sweep; add -m"
    return text


def _unknown_option(group: str, name: str, options: Sequence[str]) -> str:
    there = sorted(option for option in options if not option.startswith("_"))
    near = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    hint = f"the nearest is {group}={near[0]}; " if near else ""
    if f"{group}={name}" in EXTRAS:
        extra = EXTRAS[f"{group}={name}"]
        return f"{group}={name} needs an extra: pip install -c constraints.txt -e '.[{extra}]'"
    if not there:
        return f"there is no {group}={name}, and no other option of {group} either"
    if len(there) <= FEW:
        return f"{group} has no option {name!r}; {hint}it has {', '.join(there)}"
    more = f"{', '.join(near[1:])} are near too; " if near[1:] else ""
    return (
        f"{group} has no option {name!r}; {hint}{more}python run.py --help lists all {len(there)}"
    )
