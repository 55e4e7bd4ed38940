"""Check the pipeline on a CUDA device in under 8 minutes: ``make gpu-check``, or ``python -m tools.gpu_check``.

It needs this tree, torch, transformers and the packages of ``requirements-gpu-check.txt``. The encoders have the shapes
of CLIP-L (frames), HuBERT-L (audio) and ViT-B (face crops), with random weights. Openers decode generated clips, or
prepare synthetic arrays if PyAV is not installed; face crops are always synthetic. The exit code is 0 if all checks
passed, 1 if one failed, 2 without a CUDA device. ``--device cpu --small`` runs the same checks with tiny models.
"""
