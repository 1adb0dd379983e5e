"""How far a judge can be trusted: position bias, verbosity, agreement with people, parse failures.

`verdict_counts` has one judge's verdicts on one benchmark, counted by prompt; `position`, `groups`,
`human_agreement` and `validity` make a section each of what they show, and `report` prints, draws
and writes all of them. The statistics are `qlora_repro.stats`; ratings are `analysis.ranking`.
Start with `report.SECTIONS`.
"""
