"""What is kept on disk, and what keeps it whole."""
