"""The paper's seven findings, a module each: what is tested, the paper's evidence, and ours.

Each module has `evidence_from_paper`, from printed numbers and released verdicts, and
`parts_from_runs`, from stored runs. Start with `finding_1_precision`. `evidence` holds what they
share and the criteria, which experiments/findings/criteria.yaml fixes beforehand; `conclusions`
decides all seven together and writes them down (`python -m analysis claims`). The tests themselves
are in `qlora_repro.stats.hypothesis_tests`.
"""
