"""Soak test: kill a small extraction many times, and compare its result to that of an uninterrupted run."""
