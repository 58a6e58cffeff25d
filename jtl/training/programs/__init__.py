"""Programs on disk: what was compiled, and what was traced for it, is found at the next start."""
