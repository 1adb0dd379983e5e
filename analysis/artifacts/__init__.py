"""The engine behind tables and figures of scores: from stored runs to rows beside the paper's.

A table of scores is an `Artifact`, data alone; start with it and `group_samples` in `artifact`.
`runs` loads evaluated runs with their scores by question, `effects` turns groups of them into means
and differences with noise, `render` puts them beside the printed cells. Which tables there are is
in `analysis.tables`; statistics are in `qlora_repro.stats`.
"""
