"""From the speedup that was asked for to a threshold."""
