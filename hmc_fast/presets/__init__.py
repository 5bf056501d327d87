"""Presets of the command line: named settings, and the runs they specify."""
