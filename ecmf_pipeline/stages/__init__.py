"""One thin module a stage: open, call, write; no arithmetic here."""
