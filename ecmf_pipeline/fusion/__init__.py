"""Fusion of modalities into one prediction: the ECMF model, its training in folds, and its predictions."""
