"""How good answers are, and what leaving early costs of it."""
