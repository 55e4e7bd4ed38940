"""Detect faces or read existing crops, and track the main face of a clip."""
