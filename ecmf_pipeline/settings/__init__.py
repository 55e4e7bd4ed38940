"""Parse params.yaml over its preset, and resolve what it means for each stage."""
