"""The offline kit: which wheels, in which pieces, and whether they install without a network."""

import base64
import csv
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from experiments.benchmarks import offline_kit
from experiments.benchmarks.offline_kit import (
    KitError,
    Target,
    keep_one_cuda,
    own_requirements,
    read_installed,
    resolve,
    write_pieces,
)


def wheel(folder: Path, name: str, version: str, needs: tuple[str, ...] = (), **files: str) -> Path:
    """Write a valid wheel: a module, further files by path, metadata and RECORD."""
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    contents = {
        f"{name}/__init__.py": f'VERSION = "{version}"\n',
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},{record_hash(text.encode())},{len(text)}" for path, text in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
    return path


def record_hash(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"


def test_a_list_of_installed_packages_is_read_as_pip_freeze_prints_it() -> None:
    text = (
        "torch==2.11.0+cu130\nPyYAML\n# a comment\n-e git+https://host/x#egg=y\nlocal @ file:///x"
    )
    expected = {"torch": Version("2.11.0+cu130"), "pyyaml": None, "local": None}
    assert read_installed(text) == expected


def test_the_kit_holds_what_the_project_needs_and_nothing_that_needs_a_network() -> None:
    names = {requirement.name for requirement in own_requirements()}
    assert {"bitsandbytes", "lm-eval", "peft", "pytest", "liger-kernel"} <= names
    assert "wandb" not in names


def registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let downloads come from wheels made here; return the list of what was asked."""
    made = {
        "tool": [
            wheel(folder, "tool", "2.0", ("hub>=2", "leaf")),
            wheel(folder, "tool", "1.9", ("hub>=1", "leaf", "old; python_version < '3.12'")),
        ],
        "leaf": [wheel(folder, "leaf", "1.0", ("present", "more; extra == 'all'"))],
    }
    asked = []

    def download(requirement: str, target: Target, into: Path) -> Path:
        asked.append(requirement)
        wanted = Requirement(requirement)
        for path in made[wanted.name]:
            if wanted.specifier.contains(offline_kit.version_of(path)):
                return path
        raise KitError(requirement)

    monkeypatch.setattr(offline_kit, "download", download)
    return asked


def test_a_pin_that_the_target_contradicts_gives_way_to_an_older_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = registry(tmp_path, monkeypatch)
    target = Target(python="3.12", has={"hub": Version("1.33.0"), "present": None})
    resolution = resolve([Requirement("tool")], target, tmp_path)
    names = {name: path.name.split("-")[1] for name, path in resolution.wheels.items()}
    assert names == {"tool": "1.9", "leaf": "1.0"}
    assert asked == [
        "tool",
        "tool<2.0",
        "leaf",
    ]  # nothing that is there, no marker of another Python
    assert resolution.notes == ["tool 2.0 wants hub>=2 and the target has 1.33.0: 1.9 instead"]


def test_what_no_version_agrees_with_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry(tmp_path, monkeypatch)
    target = Target(python="3.12", has={"hub": Version("0.9"), "present": None})
    needed = [Requirement("tool"), Requirement("hub>=1.5")]
    ours, theirs = resolve(needed, target, tmp_path).notes
    assert ours == "this project wants hub>=1.5: CONFLICT, the target has 0.9"
    assert theirs.startswith("tool 2.0 wants hub>=2 and the target has 0.9: CONFLICT")


def test_bitsandbytes_keeps_one_cuda_library_and_its_record_agrees_with_its_files(
    tmp_path: Path,
) -> None:
    names = ("cpu", "cuda124", "cuda130", "rocm70", "xpu2026")
    libraries = {f"bitsandbytes/libbitsandbytes_{name}.so": name * 999 for name in names}
    path = wheel(tmp_path, "bitsandbytes", "0.50.2", **libraries)
    with pytest.raises(KitError, match=r"no library for --cuda 131; it has 124, 130"):
        keep_one_cuda(path, "131")
    with zipfile.ZipFile(keep_one_cuda(path, "130")) as archive:
        inside = set(archive.namelist())
        (record,) = (name for name in inside if name.endswith("RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert {row[0] for row in rows} == inside
        for name, digest, _ in rows:
            assert name == record or digest == record_hash(archive.read(name))
    kept = {name for name in inside if name.endswith(".so")}
    assert kept == {f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda130")}


def install(piece: Path, site: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["sh", str(piece / "install.sh"), str(site)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_pieces_that_come_one_at_a_time_install_and_a_damaged_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_kit, "ROOM", 4000)
    wheels = [wheel(tmp_path, name, "1.0") for name in ("zebra", "ape", "gnu", "yak", "emu")]
    model = wheel(tmp_path, "model", "1.0", **{"model/weights.gguf": "x" * 9000})
    pieces = write_pieces(wheels, model, tmp_path / "kit")
    held = [[p for p in sorted(piece.iterdir()) if ".whl" in p.name] for piece in pieces]
    assert all(sum(path.stat().st_size for path in files) <= 4000 for files in held)
    parts = [path.name for files in held for path in files if path.name.startswith("model")]
    assert [name.partition(".part-")[2] for name in parts] == ["00", "01", "02"]
    assert all(files[0].name.startswith("model") for files in held[-3:])  # the model in its own

    for number, piece in enumerate(pieces):  # each is carried alone
        carried = tmp_path / "carried with a space" / str(number)
        carried.parent.mkdir(exist_ok=True)
        piece.rename(carried)
        result = install(carried, tmp_path / "site")
        assert result.returncode == 0, result.stderr
        assert ("not here yet:" in result.stdout) == (number < len(pieces) - 1)
        if number < len(pieces) - 1:
            carried.rename(tmp_path / f"gone-{number}")
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert {"zebra", "ape", "gnu", "yak", "emu", "model"} <= names
    assert (tmp_path / "site" / "model" / "weights.gguf").stat().st_size == 9000
    assert install(carried, tmp_path / "site").stdout.startswith("0 wheels installed")

    damaged = carried / parts[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    for number in range(len(pieces) - 1):
        (tmp_path / f"gone-{number}").rename(carried.parent / f"again-{number}")
    result = install(carried, tmp_path / "fresh")
    assert result.returncode == 1
    assert "model-1.0-py3-none-any.whl is damaged: copy the kit again" in result.stderr
