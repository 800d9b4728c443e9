"""Which variant to use under limits and a preference: what is excluded and how surely, what is left, what is not known.

`decide` is a function of candidates alone, whatever measured them; `decide_run` makes these of a run's evidence. See
docs/deciding.md.
"""
