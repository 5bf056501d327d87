"""What a run leaves: draws, averages, diagnostics, and its folder on disk."""
