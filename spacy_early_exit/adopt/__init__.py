"""An existing token classifier, taught to exit early."""
