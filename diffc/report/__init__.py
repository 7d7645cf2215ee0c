"""The report: one model (report.json), and its renderings.

model.py       Report, typed; its JSON Schema is report.schema.json
collect.py     an output folder -> Report
writing.py     a Report and its pages into an output folder
current.py     a Report without the figures that are not of its folder's files any more
blocks.py      what sections are built of: tables, notes, charts ...
sections/      one file a section; every rendering shows the same list of them
terminal.py    for people at a terminal; tables.py: tables of any width, never cut
markdown.py    for a pull request or a wiki
card.py        OUT/model/README.md, the compressed model's own card
html.py        report.html, one file without a network; html_blocks.py: each kind of block in it,
               markup.py: escaping, svg.py: charts, assets/: style
comparison.py  several runs on one page
protocols.py   whether several runs were measured and judged alike
side_by_side.py  what `diffc bench A B` shows
verdict.py     whether the compressed model is worth having, in one sentence
speed.py, units.py  speed-ups, noise and figures in words
history.py  latency over time
network_errors.py  how far networks are from the dense one, as a table
quality_rows.py  figures of samples as rows of a table
trainings.py  what the compressed model was given after the cut, in words
loops.py    sampling loops in words: which was timed, which was judged
html_blocks.py  each kind of block as HTML. Every string is escaped by ``markup.tag``
markup.py  HTML from functions
records.py  the stages' records as report.json holds them
pictures.py  samples for report.html: pairs and their difference
frontiers.py  who is ahead at equal time, in words
frontier_figure.py  the frontier as a picture file, by matplotlib
plot.py   a plot in characters
ladder_chart.py  the chart of a ladder, of steps and of images
svg.py    charts as inline SVG, readable without colour, from plain numbers
tables.py  tables of text for a terminal of any width, in which nothing is ever cut
"""
