"""The page for a browser: verdicts, tables, figures, audits and the runs behind them, in one file.

`page` says what is on it as plain values and fills the template (report.html, .css, .js) with them,
everything escaped. What is shown is built by `analysis.build`.
"""
