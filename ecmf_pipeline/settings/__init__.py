"""Parse params.yaml together with its preset, and resolve the settings of each stage."""
