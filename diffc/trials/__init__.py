"""``diffc search``: goals in, a loop out.

Every axis (ratio, cut, precision, loop) has some values; a candidate has one of each. The times of
all candidates are measured before anything is trained, since weights do not change them, and so is
what the dense model reaches with each loop. Then the trials are run that can still win.

goals.py      what a loop must reach, as people write it
axes/         what is searched over: one file for each axis
space.py      the candidates, and the recipe of each
contest.py    which candidates can still win: pure, and tested against brute force
measuring.py  the stages that measure engines of several trials in one block
trials.py     one trial: a model in a folder of the cache, and its engines
workers.py    who trains: this process, or a Ray cluster
distances.py  how far images are from the data, on the dense model's own features
results.py    what a search found, as search.json holds it
request.py    what is wanted, and what is refused before any work
running.py    the search: order, events, the one OUT that it leaves
outcome.py    the result, from the contest and the last block
blocks.py     which loops of which engines are measured together
showing.py    the table, the plot and the sentences
"""
