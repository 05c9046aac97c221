"""From a saving that was asked for to a threshold."""
