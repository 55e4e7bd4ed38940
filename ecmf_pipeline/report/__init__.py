"""Report of a run: one self-contained HTML page, rendered by `page.render` from loaded results."""
