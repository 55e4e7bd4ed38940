"""Encoders whose weights ship inside Python packages."""
