"""What a run is shown as: one self-contained HTML page. `page.render` turns loaded results into its text.

`sections` say what the numbers mean, `plots` draws them, `blocks` are what both are made of, and ``templates`` holds
the page's frame and style; other pages (a review of labels) can be built from the same blocks.
"""
