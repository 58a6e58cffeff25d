"""Sources of labelled images: one protocol, and what stands behind it."""
