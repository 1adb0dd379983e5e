"""The page for a browser: verdicts, tables, figures, audits and the runs behind them, in one file.

`content` says what is on the page as plain values, `render` fills the template (report.html, .css,
.js) with them, everything escaped. What is shown is built by `analysis.build`.
"""
