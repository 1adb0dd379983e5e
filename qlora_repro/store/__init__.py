"""Results on disk: what a run leaves, how it is found again, and how it is read.

`load` is the public way in: runs, scores, answers and measurements as pandas frames, from a results
folder or from the published `evidence`. Behind it, `run_id` names runs by the settings that decide
them, `cell` says which stages of a configuration are done, `runs` writes a run's files, above
`integrity` (complete or absent, with checksums) and `lock` (one process a run). `provenance`
records where numbers come from; `verdicts` is the form of judges' verdicts. No model or GPU library
is imported here, and nothing is computed from results: that is `analysis`.
"""
