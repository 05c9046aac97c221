"""Faster matrix products, only for predicting."""
