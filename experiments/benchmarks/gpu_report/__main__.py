"""Measure what a GPU alone can prove, and write it down part by part.

    python -m experiments.benchmarks.gpu_report [--out analysis/gpu] [--parts 1-9] [--tiny]

For a machine with one GPU, no network and no model hub. Parts run in order of worth, each within
its own time; report.json, in a folder named by the card, is rewritten after each. A part that
fails, or takes too long, does not stop the others. `--parts 10` trains the embedded model and is
a command of its own: its rows join the report that is there. Paged memory never exceeds what the
card has free, unless `--oversubscribe` is given, on a card of your own.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from qlora_repro.console import say
from qlora_repro.store.integrity import write_atomic
from qlora_repro.store.provenance import collect_provenance

ROOT = Path(__file__).resolve().parents[3]
TESTS = 1  # the part that pytest runs
TESTS_LIMIT = 90.0  # s
GRACE = 20.0  # s beyond its limit before a part is ended
PAUSE = 0.2  # s between two looks


def main() -> None:
    """Run the parts that are asked for and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "analysis" / "gpu")
    parser.add_argument("--parts", default="1-9", help="such as 1-9, or 4,5")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a dry run, on a CPU too")
    parser.add_argument("--oversubscribe", action="store_true", help="on a card of your own only")
    parser.add_argument("--commit", help="of the checkout that this is a copy of")
    parser.add_argument("--seconds", type=float, help="of each part, in place of its own limit")
    asked = parser.parse_args()
    report = run_report(asked, list(read_parts(asked.parts)))
    failed = [part for part in report["parts"] if part["state"] in ("failed", "timed out")]
    raise SystemExit(1 if failed else 0)


def read_parts(text: str) -> Iterator[int]:
    """Yield the numbers of "1-9" or "4,5,10".

    >>> list(read_parts("1-3,10"))
    [1, 2, 3, 10]
    """
    for piece in text.split(","):
        if not re.fullmatch(r"\d+(-\d+)?", piece) or not 1 <= int(piece.split("-")[-1]) <= 10:
            raise SystemExit(f"error: --parts is {text!r}, and must be like 1-9 or 4,5, up to 10")
        first, _, last = piece.partition("-")
        yield from range(int(first), int(last or first) + 1)


def run_report(asked: argparse.Namespace, numbers: list[int]) -> dict[str, Any]:
    """Run the parts; return the report as it was last written."""
    report = start_report(asked)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        others = [number for number in numbers if number != TESTS]
        for part in run_worker(asked, others, folder) if others else ():
            add_part(report, part, folder, asked)
        if TESTS in numbers:
            add_part(report, run_tests(asked, report, folder), folder, asked)
    return report


def start_report(asked: argparse.Namespace) -> dict[str, Any]:
    """Return a report without parts."""
    origin = collect_provenance(device="", root=ROOT)
    return {
        "format": 1,
        "card": None,
        "memory_bytes": None,
        "driver": read_driver(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": asked.commit or origin.commit,
        "dirty": None if asked.commit else origin.dirty,  # a copy cannot tell
        "packages": dict(origin.packages),
        "tiny": asked.tiny,
        "rates": {},
        "parts": [],
    }


def read_driver() -> str | None:
    """Return the NVIDIA driver's version, None where there is none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run_worker(
    asked: argparse.Namespace, numbers: list[int], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield each part as it ends; a worker whose part takes too long is ended, a new one begun."""
    left = list(numbers)
    while left:
        command = [sys.executable, "-m", "experiments.benchmarks.gpu_report.worker", str(folder)]
        command += [str(number) for number in left]
        command += ["--tiny"] if asked.tiny else []
        command += ["--oversubscribe"] if asked.oversubscribe else []
        command += [] if asked.seconds is None else ["--seconds", str(asked.seconds)]
        log = (folder / "worker.log").open("a")
        with log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as worker:
            while left and (part := _next_part(worker, left[0], folder, asked)) is not None:
                left.pop(0)
                yield part
                if part["state"] == "timed out":
                    break
            if (
                left and worker.poll() is not None
            ):  # it ended by itself, inside the part that is next
                yield _lost_part(left.pop(0), f"the worker ended with {worker.returncode}", folder)
            worker.kill()


def _next_part(
    worker: "subprocess.Popen[bytes]", number: int, folder: Path, asked: argparse.Namespace
) -> dict[str, Any] | None:
    """Wait for a part's result; None when the worker ended without it."""
    path, began = folder / f"part-{number}.json", folder / f"part-{number}.began"
    limit = asked.seconds or LIMITS[number]
    while True:
        ended = worker.poll() is not None
        if path.exists():
            result: dict[str, Any] = json.loads(path.read_text())
            return result
        if ended:
            return None
        if began.exists() and time.time() - float(began.read_text() or "inf") > limit + GRACE:
            return _lost_part(number, f"still running {GRACE:.0f} s after its time", folder)
        time.sleep(PAUSE)


LIMITS = {2: 20.0, 3: 15.0, 4: 75.0, 5: 110.0, 6: 40.0, 7: 25.0, 8: 25.0, 9: 30.0, 10: 240.0}
NAMES = {TESTS: "GPU tests"}


def _lost_part(number: int, why: str, folder: Path) -> dict[str, Any]:
    log = (folder / "worker.log").read_text().splitlines()
    return {
        "number": number,
        "name": NAMES.get(number, f"part {number}"),
        "state": "timed out",
        "why": f"{why}; last line: {log[-1][:200] if log else 'none'}",
        "seconds": LIMITS.get(number, TESTS_LIMIT),
        "limit_s": LIMITS.get(number, TESTS_LIMIT),
        "rows": [],
        "facts": {},
    }


def run_tests(asked: argparse.Namespace, report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run `pytest -m gpu`, one test at a time, paging apart; return its part."""
    part = {"number": TESTS, "name": NAMES[TESTS], "limit_s": TESTS_LIMIT, "rows": [], "facts": {}}
    if report["card"] is None and not _sees_gpu():
        why = "needs CUDA; there is no GPU here"
        return part | {"state": "skipped", "why": why, "seconds": 0.0}
    xml, began = folder / "tests.xml", time.monotonic()
    command = [sys.executable, "-m", "pytest", "-n0", "-m", "gpu", "-q", f"--junitxml={xml}"]
    limit = asked.seconds or TESTS_LIMIT
    try:
        done = subprocess.run(
            [*command, *map(str, list_gpu_tests())],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit + GRACE,
        )
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode(errors="replace").splitlines()
        late = part | {"state": "timed out", "seconds": time.monotonic() - began}
        return late | {"why": f"last line: {out[-1][:200] if out else 'none'}"}
    counts, rows = read_junit(xml) if xml.exists() else ({}, [])
    state = "passed" if done.returncode == 0 else "failed"
    last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
    why = None if done.returncode == 0 else last[:400]
    seconds = time.monotonic() - began
    return part | {"state": state, "why": why, "seconds": seconds, "facts": counts, "rows": rows}


def list_gpu_tests() -> list[Path]:
    """Return the modules of tests for a GPU: to collect them all would take longer than to run."""
    return sorted((ROOT / "tests" / "gpu").glob("test_*.py"))


def _sees_gpu() -> bool:
    return read_driver() is not None


def read_junit(path: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return counts, and a row for each test that did not pass, of a JUnit file."""
    rows, counts = [], {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        kinds = {child.tag: child for child in case}
        state = next((s for tag, s in STATES.items() if tag in kinds), "passed")
        counts[state] += 1
        if state != "passed":
            message = next(iter(kinds.values())).get("message") or ""
            rows.append({"test": case.get("name"), "state": state, "why": message[:200]})
    return counts, rows


STATES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


def add_part(
    report: dict[str, Any], part: dict[str, Any], folder: Path, asked: argparse.Namespace
) -> None:
    """Put a part into the report and write it, whole; say so."""
    machine = folder / "machine.json"
    if machine.exists():
        report |= json.loads(machine.read_text())
    path = asked.out / card_folder(report["card"], tiny=asked.tiny) / "report.json"
    part |= {"commit": report["commit"], "began": report["started"]}  # parts may be run apart
    earlier = json.loads(path.read_text())["parts"] if path.exists() else []
    parts = {p["number"]: p for p in [*earlier, *report["parts"], part]}
    report["parts"] = [parts[number] for number in sorted(parts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(report, indent=1) + "\n")
    why = f": {part['why']}" if part["why"] else ""
    say(f"part {part['number']}, {part['name']}: {part['state']}, {part['seconds']:.0f} s{why}")
    log = folder / "worker.log"
    if part["state"] in ("failed", "timed out") and log.exists():
        sys.stderr.write("\n".join(log.read_text().splitlines()[-40:]) + "\n")


def card_folder(card: str | None, *, tiny: bool) -> str:
    """Return the folder's name: the card's, in letters, digits and dashes.

    >>> card_folder("NVIDIA H100 80GB HBM3", tiny=False), card_folder(None, tiny=True)
    ('nvidia-h100-80gb-hbm3', 'cpu-dry-run')
    """
    name = re.sub(r"[^a-z0-9]+", "-", (card or "cpu").lower()).strip("-")
    return f"{name}-dry-run" if tiny else name


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
