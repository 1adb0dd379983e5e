"""What a message to the user is made of: the nearest valid name, and errors as one sentence."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException

MAX_LISTED = 12  # of more options than these, an error names the nearest only
MAX_SUGGESTED = 4  # names, where none is near
LAUNCHER_EXTRAS = ("joblib", "ray", "submitit")
TYPE_NAMES = {
    "None": "null",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list[int]": "a list of whole numbers",
    "list[str]": "a list of texts",
    "str": "a text",
}


def nearest_names(name: str, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that a mistyped one is most like, the nearest first.

    >>> nearest_names("alpacca", ["oasst1", "alpaca"]), nearest_names("x", ["oasst1"])
    (['alpaca'], [])
    """
    return difflib.get_close_matches(name, list(known), n=n, cutoff=cutoff)


def suggest_names(name: str, known: Sequence[str]) -> str:
    """Return what to offer instead of a name that is not known.

    >>> suggest_names("guanaco-56b", ["guanaco-65b", "bard"]), suggest_names("x", ["a", "b"])
    ('did you mean guanaco-65b?', 'there is a, b')
    """
    if near := nearest_names(name, known, n=2, cutoff=0.5):
        return f"did you mean {' or '.join(near)}?"
    more = ", ..." if len(known) > MAX_SUGGESTED else ""
    return f"there is {', '.join(known[:MAX_SUGGESTED])}{more}"


def explain_error(error: Exception, settings: Collection[str]) -> str:
    """Return Hydra's or OmegaConf's complaint as one sentence with the nearest valid name.

    `settings` are all that there are, dotted.
    """
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return _describe_unknown_option(group, name, error.options or [])
    actions = r"override|append to config\.[^']*|delete from config\.[^']*"
    if match := re.search(rf"Could not (?:{actions}) ?'([^']+)'", text):
        return describe_unknown_setting(match[1].lstrip("+~"), settings)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read; write KEY=VALUE, as in dtype=nf4 or train.lr=1e-4"
        )
    if match := re.match(r"(\S+) appears more than once in the final defaults", text):
        return f"{match[1]} is given twice; write {match[1]}=OPTION once and without +"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]} has more than one value, which is a sweep; add -m"
    return text


def _describe_unknown_option(group: str, name: str, options: Sequence[str]) -> str:
    extra = name.partition("_")[0]
    if group == "hydra/launcher" and extra in LAUNCHER_EXTRAS:
        return f"{group}={name} needs an extra: pip install -c constraints.txt -e '.[{extra}]'"
    known = sorted(option for option in options if not option.startswith("_"))
    if not known:
        return f"there is no {group}={name}, and no other option of {group} either"
    near = nearest_names(name, known, n=3, cutoff=0.5)
    hint = f"the nearest is {group}={near[0]}; " if near else ""
    if len(known) <= MAX_LISTED:
        return f"{group} has no option {name!r}; {hint}it has {', '.join(known)}"
    more = f"{', '.join(near[1:])} are near too; " if near[1:] else ""
    return (
        f"{group} has no option {name!r}; {hint}{more}python run.py --help lists all {len(known)}"
    )


def describe_unknown_setting(key: str, settings: Collection[str]) -> str:
    """Return the sentence for a setting that does not exist, with the nearest that does."""
    used = [name for name in reversed(list(settings)) if not name.startswith("model.tuned.")]
    tails = {name.rpartition(".")[2]: name for name in used}  # the first section wins
    last = key.rpartition(".")[2]
    near = [tails[last]] if last in tails else []  # a right name in the wrong section, or in none
    near = near or nearest_names(key, settings)
    near = near or [tails[tail] for tail in nearest_names(last, tails)]
    hint = f"did you mean {near[0]}?" if near else "python run.py --cfg job prints them all"
    return f"there is no setting {key!r}; {hint}"


def format_value(value: Any) -> str:
    """Return a value as it is written in YAML: null, and not None."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), repr(value))


def describe_type(hint: Any, *, auto: bool) -> str:
    """Return what a setting of a type may be, as a sentence says it; auto: its one text is auto."""
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    names = TYPE_NAMES | {"str": "auto"} if auto else TYPE_NAMES
    return " or ".join(names.get(part, "a section") for part in text.split(" | "))
