"""From Docs to what the network reads: wordpieces, the words they cover, and windows."""
