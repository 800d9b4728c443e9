"""Stored results as values: what was measured, where it stands in the six tracks, and what is missing and why."""
