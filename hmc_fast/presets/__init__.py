"""Named settings of the command line, and the run that they describe."""
