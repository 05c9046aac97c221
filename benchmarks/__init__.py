"""What the numbers of the README and the docs come from: README.md has a table."""
