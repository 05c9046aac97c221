"""Where pre-trained encoders come from. One file for each source."""
