"""Checkpoints of other frameworks: a table of names per system, used in both directions."""
