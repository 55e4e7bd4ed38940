"""Generate the reference pages of the documentation from the code.

``python -m tools.reference`` writes `docs/reference/params.md`, `cli.md` and `files.md`. With ``--check`` it writes
nothing and exits with code 1 if one of them is stale.
"""
