"""What words are tagged with, and what becomes of the tags: one file for each task."""
