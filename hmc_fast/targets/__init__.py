"""What is sampled: log densities over rows of a flat parameter buffer."""
