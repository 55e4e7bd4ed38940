"""What `ecmf-pipe store ...` does: one module a command."""
