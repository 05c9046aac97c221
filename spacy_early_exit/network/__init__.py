"""The network: torch only, no spaCy. Read `loop.py` first."""
