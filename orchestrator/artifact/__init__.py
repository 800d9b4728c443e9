"""One file of a run that anyone can check: packed, verified offline, and run again.

docs/artifacts.md says what is in it, and what each way to check it proves.
"""
