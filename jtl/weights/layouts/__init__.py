"""The key tables: how each source names and stores the tensors of our networks."""
