"""The bricks of an encoder layer."""
