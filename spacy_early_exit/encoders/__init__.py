"""Where pre-trained encoders come from. One file a source."""
