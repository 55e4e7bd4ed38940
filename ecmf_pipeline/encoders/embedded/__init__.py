"""Encoders whose weights ship inside packages."""
