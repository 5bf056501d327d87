"""Running a sampler: the loop over iterations, checkpoints, progress, memory forecast and Ctrl-C."""
