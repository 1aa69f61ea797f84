"""Benchmarks of the judge itself: how far its speedups and its verdicts can be trusted, and how much it survives."""
