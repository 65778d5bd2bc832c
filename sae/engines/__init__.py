"""Engines: ways to compute a run of training. `eager` is the reference; the others are faster."""
