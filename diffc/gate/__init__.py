"""The gate: is it slower, larger or worse than before?

rule.py      the sequential rule on paired times, and A against A
limits.py    '5%', '20MB', '90s': how much worse is allowed
subject.py   the two sides: output folders, engine folders, stored baselines
baseline.py  stored baselines
pairing.py   the engines that are compared, and what is refused, lost or noted
ready.py     what can be measured here, asked before anything is timed
progress.py  which of how many figures is being measured
images.py    what one image of a check is made with
figures.py   the figures: each measured, set against its limit, given a verdict
ahead.py     whether a dense loop of the same time is better than the served one
quality.py   the figures of the samples, as each side's run measured them
result.py    a check's result, in the form of its JSON
check.py     the check: all of these in turn
history.py   the history: a line of medians for each figure that was saved or checked
outputs.py   Markdown, JUnit, annotations, a badge

check.schema.json and baseline.schema.json are the JSON Schemas of the files that result.py and
baseline.py write.
"""
