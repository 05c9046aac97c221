"""Somebody's token classifier, taught to leave early."""
