"""Support for sharing features through DVC remotes."""
