"""What a rebuild leaves, small and hostile: text that would be markup were it not escaped."""

import json
from pathlib import Path

import pandas as pd
from claims_store import add_run

from analysis.build import Audited, Rebuilt
from analysis.figures import fig2_lora_coverage
from analysis.findings.report import decided
from analysis.judge_audit.report import examined
from analysis.table import Table
from analysis.tables import table4_mmlu_by_dtype

ATTACK = (
    "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 2'> "
    "{{ policy }} & \"'"
)
EXACT = "procedural_exact/exact_match"
HEADER = "judge,question,first,second,verdict\n"


def right(share: float) -> list[float]:
    return [1.0] * round(100 * share) + [0.0] * (100 - round(100 * share))


def make(root: Path) -> Rebuilt:
    """Return one table of runs, one of attacks, a figure, an audit of a few verdicts."""
    results = root / "results"
    results.mkdir()
    for seed in (0, 1, 2):
        for dtype, share in (("bf16", 0.4), ("nf4", 0.5)):
            settings = {"dtype.name": dtype, "dq": dtype == "nf4", "seed": seed}
            settings["data.tasks"] = [ATTACK]
            folder = results / add_run(results, settings, {EXACT: right(share + seed / 100)})
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["provenance"] |= {"dirty": seed == 2, "packages": {"torch": "2.9.1"}}
            manifest["model"]["note"] = ATTACK
            (folder / "manifest.json").write_text(json.dumps(manifest))
    verdicts = root / "verdicts.csv"
    lines = [
        f"judge-1,q{k},{first},{second},{'first' if k % 3 else 'tie'}\n"
        for k in range(8)
        for first, second in (("a", "b"), ("b", "a"))
    ]
    verdicts.write_text(HEADER + "".join(lines))
    ((material, sections),) = examined(verdicts, None)
    attacks = pd.DataFrame(
        {
            ATTACK: ["b", "a", "c", "d"],
            "score": ["9.5", "-", "10.2 [9, 11]", "-3"],
            "n": ["1,000", "20", "3", "missing"],
        }
    )
    return Rebuilt(
        results=results,
        verdicts=decided(results),
        tables={
            "table4_mmlu_by_dtype": table4_mmlu_by_dtype.build(results),
            "agreement": Table(title=ATTACK, frame=attacks, notes=[ATTACK]),
        },
        figures={"fig2_lora_coverage": fig2_lora_coverage.draw(results)},
        audits=[Audited(material=material, sections=sections, figures={})],
        left_out={"table8_crows_bias": ATTACK},
    )
