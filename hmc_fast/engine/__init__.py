"""The loop over iterations and what surrounds it: checkpoints, progress, memory forecast, Ctrl-C."""
