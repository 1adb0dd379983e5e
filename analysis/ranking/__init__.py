"""Who is best: ratings of systems from verdicts, and how far they can be trusted.

`tally` counts verdicts by question and pair, `elo` rates systems over many random orderings of the
matches as the paper does, and `bradley_terry` by maximum likelihood, which no order moves. Tables
1, 7, 12 and 13 and the audit of judges are made of these. Start with `elo.rate_column`.
"""
