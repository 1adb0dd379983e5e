"""Judges: who says which of two answers is better (Section 5 of the paper).

`matches` pairs two systems' answers, a judge returns one `Judgment` a match, and `win_rates` counts
them; all judges have one signature. `openai` asks a server: `protocol` writes the request,
`api_client` or `batch_api` sends it within `cost`'s budget, `replies` stores the reply, `parsing`
reads it. `other_judges` asks nobody. `annotate` is the page on which people vote. The stage that
calls a judge is in `stages.judge`; rankings and audits of verdicts are in `analysis`. Start with
`openai.judge_openai`.
"""
