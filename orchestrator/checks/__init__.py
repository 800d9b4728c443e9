"""Checks that a user asks for: an image against the contract, a backend against the reference, this machine."""
