"""Runs a plan: schedules its stages, judges what comes back, keeps the run's record."""
