"""What the strict parser could not read, and in which direction it leans."""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.judge_audit.counted_verdicts import OUTCOMES, Material, Section, absent, percent

FEW = 20


def parse_failures(material: Material) -> Section:
    """Return unread replies by reason, and what a lenient reader finds in them."""
    title = "Parse failures by direction"
    rows = material.rows
    failed = rows[rows["verdict"].isna()]
    if failed.empty:
        return absent(title, "every verdict was read")
    found = failed.assign(lenient=failed["verdict_lenient"].astype(object).fillna("none"))
    table = pd.crosstab(found["parse"], found["lenient"])
    table = table.reindex(columns=[*OUTCOMES, "none"], fill_value=0)
    table.loc["all failures"] = table.sum()
    ok = material.read["verdict"].value_counts().reindex(list(OUTCOMES), fill_value=0)
    table.loc["verdicts read"] = [*ok.to_list(), 0]
    frame = table.astype(int).map("{:,}".format).reset_index(names="parse")
    frame.columns.name = None
    recovered = found[found["lenient"] != "none"]
    counts = {name: int((recovered["lenient"] == name).sum()) for name in OUTCOMES}
    said = [
        f"{len(failed):,} of {len(rows):,} verdicts could not be read; a lenient reader finds "
        f"{len(recovered):,}: {counts['first']:,} for the first, {counts['second']:,} for the "
        f"second, {counts['tie']:,} ties.",
        *_leaning(np.array(list(counts.values())), ok.to_numpy()),
    ]
    whole = rows.assign(
        verdict=rows["verdict"].where(rows["verdict"].notna(), rows["verdict_lenient"])
    )
    whole = whole[whole["verdict"].notna()]
    with_them = {
        name: material.share(whole, (whole["verdict"] == name).to_numpy()) for name in OUTCOMES
    }
    shown = ", ".join(f"{name} {percent(each)}%" for name, each in with_them.items())
    said.append(f"With the recovered ones: {shown}.")
    facts = {
        "failed": len(failed),
        "recovered": counts,
        "by_parse": table.astype(int).to_dict(orient="index"),
        "shares_with_recovered": {name: each.facts() for name, each in with_them.items()},
    }
    return Section(title=title, frame=frame, notes=said, facts=facts, headline=said[0])


def _leaning(recovered: np.ndarray, read: np.ndarray) -> list[str]:
    """Return whether the recovered verdicts are as the read ones: a chi-square test, (3,) each."""
    both = np.stack([recovered, read])
    both = both[:, both.sum(axis=0) > 0]
    if both.shape[1] < 2 or recovered.sum() < FEW:
        return [f"Under {FEW} were recovered: too few to compare them with the verdicts read."]
    test = stats.chi2_contingency(both)
    p = "< 0.001" if test.pvalue < 0.001 else f"= {test.pvalue:.3f}"
    return [
        f"Against the verdicts read: chi-square {test.statistic:.1f} on {test.dof} degrees of "
        f"freedom, p {p} (as if verdicts were independent)."
    ]
