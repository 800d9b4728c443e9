"""Values against their references: the six overall metrics (OM), how sure they are, and which variant is better.

    OM = 100 * sqrt(mean over parts of mean over (model, data set) of ratio**2)

The ratio is compressed / dense where higher is better, dense / compressed where lower is better, and in track 3, which
has no dense value, the greatest among the methods / this one. See docs/scoring.md.
"""
