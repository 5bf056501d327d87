"""How gradients run: random streams, batching of chains, compilation, precision, devices."""
