"""One question of the paper per file."""
