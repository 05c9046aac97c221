"""What training needs and prediction does not."""
