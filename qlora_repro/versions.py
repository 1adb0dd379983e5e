"""Are the installed packages new enough? Asked before any of them is imported."""

import shlex
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from qlora_repro.errors import ConfigError

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def check_versions() -> None:
    """Refuse packages older than the lower bounds of pyproject.toml; raises ConfigError."""
    requirements = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    if sentence := describe_outdated(requirements):
        raise ConfigError(sentence)


def describe_outdated(requirements: Iterable[str]) -> str:
    """Return what is installed, what is needed and the command that helps; empty where all is well.

    Requirements without a bound are met by any version.

    >>> describe_outdated(["packaging>=1", "numpy"])
    ''
    >>> describe_outdated(["not_there>=2.1"])
    "not_there is not installed, and >=2.1 is needed; run pip install 'not_there>=2.1'"
    """
    outdated = []
    for requirement in map(Requirement, requirements):
        installed = _installed(requirement.name)
        bound = requirement.specifier
        if bound and (installed is None or not bound.contains(installed, prereleases=True)):
            outdated.append((requirement.name, installed, str(bound)))
    if not outdated:
        return ""
    facts = [
        f"{name} {f'is {installed}' if installed else 'is not installed'}, and {bound} is needed"
        for name, installed, bound in outdated
    ]
    wanted = shlex.join(["pip", "install", *(f"{name}{bound}" for name, _, bound in outdated)])
    return f"{'; '.join(facts)}; run {wanted}"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
