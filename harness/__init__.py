"""The worker that runs inside every image: one JSON request in, JSON Lines out.

Importing `harness` or `harness.contract` needs pydantic alone; torch and the libraries of an image are imported by the
operation that needs them.
"""
