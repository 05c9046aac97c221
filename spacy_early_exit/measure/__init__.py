"""Measurements on texts: what thresholds save, and what speedups cost."""
