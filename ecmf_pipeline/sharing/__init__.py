"""New projects, and sharing of computed outputs through DVC remotes."""
