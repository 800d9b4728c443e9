"""MLC-LLM as a deployment backend: weights converted, library compiled, then its own engine. Not run by us."""
