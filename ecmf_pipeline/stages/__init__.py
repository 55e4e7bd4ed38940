"""The stages of the pipeline, one thin module each: read inputs, call other packages, write outputs."""
