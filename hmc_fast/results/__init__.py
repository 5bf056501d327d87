"""The results of a run: draws, trace, averaged predictions, diagnostics, and its folder on disk."""
