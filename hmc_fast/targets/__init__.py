"""Target distributions: posteriors of torch models and bare densities, over rows of a flat parameter buffer."""
