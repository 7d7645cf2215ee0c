"""The gate: is it slower, larger or worse than before?

rule.py      the sequential rule on paired times, and A against A
limits.py    '5%', '20MB', '90s': how much worse is allowed
subject.py   what CANDIDATE and BASELINE may be: output folders, engine folders, stored baselines
baseline.py  stored baselines
pairing.py   which engines of two subjects are compared; what is refused, lost or noted
ready.py     what can be measured here, asked before anything is timed
figures.py   the figures: each measured, set against its limit, given a verdict
result.py    what a check found, in the form of its JSON
check.py     the check: all of these in turn
history.py   the history: a line of medians for each figure that was saved or checked
outputs.py   Markdown, JUnit, annotations, a badge

check.schema.json and baseline.schema.json are the JSON Schemas of what result.py and baseline.py
write.
"""
