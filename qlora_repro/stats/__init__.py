"""All statistics of the package and of `analysis`: numbers in, numbers out.

Nothing here knows a store, a judge or a table; it needs numpy, scipy and statsmodels, never torch.
Start with `intervals` (confidence intervals of one statistic) and `paired` (one evaluation against
another). `agreement` has kappas and correlations of raters, `estimates` turns scores of seeds and
questions into a mean with its standard error, and `hypothesis_tests` says what such a mean shows.
"""
