"""Runs on texts: what thresholds save, and what speedups cost."""
