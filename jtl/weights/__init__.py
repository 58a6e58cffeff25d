"""Pretrained weights: read any common file, account for every tensor, and write them back."""
