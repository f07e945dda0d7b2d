"""Fills the files of `launch/` in from a topology, and submits them: what `cotjax launch` does."""
