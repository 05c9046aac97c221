"""From a speedup that was asked for to a threshold."""
