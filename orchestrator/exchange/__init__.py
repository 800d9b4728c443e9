"""Figures that go to other programs in their forms, and those of others that are shown beside ours.

docs/exchange.md has each form field by field, and what is lost.
"""
