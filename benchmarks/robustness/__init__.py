"""Whether it stays right: for long, on any input, with errors in the code."""
