"""Experiments: how long to run one (plan), what it did (analyse, decompose), what its first days foretell (interim).

Means, ratios, CUPED, their power and the adjustment of p-values are tea-tasting's; hazard ratios are lifelines'. Here
is what neither has: survival outcomes beside the others, sequential intervals, the decision, segments found honestly,
a change taken apart, and the interim reading. Everything is per user: rows of one user are summed before any variance.
"""
