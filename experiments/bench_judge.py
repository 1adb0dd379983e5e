"""Speed and memory of Elo over random orderings, as a ratio to a plain Python loop.

    python -m experiments.bench_judge [--rounds 3]

Both rate the released verdicts of GPT-4 over 10,000 random orderings of all matches: 4,467 on the
Vicuna benchmark, 38,544 on OA. The loop shuffles a list of matches and goes through it with a
dictionary of ratings, as textbooks have it; it is measured on a few orderings and scaled. Each arm
is a process of its own and they take turns; the fastest round counts, in processor time, as both
use one core. Memory is that of the whole process at its largest. Mean ratings are compared too.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from qlora_repro.console import say

ROOT = Path(__file__).resolve().parent.parent
ORDERINGS = 10_000
FEW = {"vicuna": 60, "oa": 8}  # orderings that the loop is measured on
TARGET = 100.0  # times faster
MOST = 1.0  # GB
PRESET = "as_printed"
Z = 4.0  # standard errors that two means may be apart


def rated_plainly(
    matches: list[tuple[str, str, float]], *, start: float, k: float
) -> dict[str, float]:
    """Return Elo after the matches in their order."""
    ratings = {system: start for match in matches for system in match[:2]}
    for first, second, points in matches:
        expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
        change = k * (points - expected)
        ratings[first] += change
        ratings[second] -= change
    return ratings


def plain(benchmark: str) -> dict[str, Any]:
    """Measure the loop on a few orderings."""
    from analysis.ranking.elo import load_setting
    from analysis.ranking.tally import pairwise_verdicts

    how, frame = (
        load_setting(PRESET, benchmark),
        pairwise_verdicts(benchmark).dropna(subset=["verdict"]),
    )
    points = frame["verdict"].map({"first": 1.0, "tie": 0.5, "second": 0.0})
    matches = list(zip(frame["first"], frame["second"], points.tolist(), strict=True))
    rng, rated = random.Random(os.getpid()), []
    began = time.process_time()
    for _ in range(FEW[benchmark]):
        rng.shuffle(matches)
        rated.append(rated_plainly(matches, start=how.start, k=how.k))
    seconds = (time.process_time() - began) * ORDERINGS / FEW[benchmark]
    means = {name: sum(row[name] for row in rated) / len(rated) for name in rated[0]}
    return {"seconds": seconds, "means": means}


def ours(benchmark: str) -> dict[str, Any]:
    """Measure 10,000 orderings, from the counted verdicts on, as the loop from its list on."""
    from analysis.ranking.elo import load_setting, rate_orderings
    from analysis.ranking.tally import count_verdicts, pairwise_verdicts

    of = count_verdicts(pairwise_verdicts(benchmark))
    how = load_setting(PRESET, benchmark, orderings=ORDERINGS)
    began = time.process_time()
    rated = rate_orderings(of.total, len(of.systems), how)
    seconds = time.process_time() - began
    means = dict(zip(of.systems, rated.mean(axis=0).tolist(), strict=True))
    spread = dict(zip(of.systems, rated.std(axis=0).tolist(), strict=True))
    return {"seconds": seconds, "means": means, "spread": spread}


IMPLEMENTATIONS = {"plain": plain, "ours": ours}


def measured(arm: str, benchmark: str) -> dict[str, Any]:
    """Run one arm in a process of its own; seconds, mean ratings and memory in GB."""
    command = [
        sys.executable,
        "-m",
        "experiments.bench_judge",
        "--arm",
        arm,
        "--benchmark",
        benchmark,
    ]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def compare_benchmark(benchmark: str, rounds: int) -> bool:
    """Print both arms; return whether ours is fast and small enough and says the same."""
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in IMPLEMENTATIONS}
    for _ in range(rounds):
        for arm, of in results.items():
            of.append(measured(arm, benchmark))
    fastest = {arm: min(row["seconds"] for row in of) for arm, of in results.items()}
    memory = max(row["gigabytes"] for row in results["ours"])
    loops, one = results["plain"], results["ours"][0]
    means = {name: sum(row["means"][name] for row in loops) / len(loops) for name in one["means"]}
    orderings = FEW[benchmark] * rounds
    apart = max(
        abs(means[name] - one["means"][name]) / (one["spread"][name] / orderings**0.5)
        for name in means
    )
    ratio = fastest["plain"] / fastest["ours"]
    say(
        f"elo, {benchmark}: {ORDERINGS:,} orderings in {fastest['ours']:.2f} s, {memory:.2f} GB; "
        f"a plain loop {fastest['plain']:.0f} s (scaled from {FEW[benchmark]}): {ratio:.0f} times "
        f"faster (target {TARGET:.0f}, under {MOST:g} GB)"
    )
    say(f"  mean ratings of {orderings} plain orderings lie within {apart:.1f} standard errors")
    return ratio >= TARGET and memory < MOST and apart < Z


def main() -> int:
    """Compare on both benchmarks, or measure one arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=IMPLEMENTATIONS)
    parser.add_argument("--benchmark", choices=FEW)
    asked = parser.parse_args()
    if asked.arm:
        results = IMPLEMENTATIONS[asked.arm](asked.benchmark)
        results["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        sys.stdout.write(json.dumps(results))
        return 0
    met = [compare_benchmark(benchmark, asked.rounds) for benchmark in FEW]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
