"""Faster products of matrices, for predicting alone."""
