"""The report: one self-contained HTML page about a run, made by `page.render` from loaded results."""
