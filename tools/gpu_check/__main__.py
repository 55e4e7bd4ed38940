"""Run the checks of a CUDA device: ``python -m tools.gpu_check``."""

from __future__ import annotations

import sys

from tools.gpu_check.command import main

if __name__ == "__main__":
    sys.exit(main())
