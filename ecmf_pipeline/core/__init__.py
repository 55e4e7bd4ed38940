"""Types, file access and array functions that all packages share; imports no model library."""
