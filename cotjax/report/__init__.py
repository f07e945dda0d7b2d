"""One self-contained page about a run: `python -m cotjax.report runs/NAME`.

run (what the folder holds) → charts (curves), page (words, tables, completions)
"""

from cotjax.report.page import write_report as write_report
