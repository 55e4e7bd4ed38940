"""Types, files and arithmetic that every folder shares; no model library is imported here."""
