"""Makes `counting` importable, here and in the workers: they find modules where their parent does."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
