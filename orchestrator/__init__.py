"""Runs on the host: reads manifests, plans stages, runs them in images, stores, scores and reports.

Never imports torch or any library of an image; of the harness it imports `harness.contract` alone.
"""
