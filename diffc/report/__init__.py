"""The report: one model (report.json), and its renderings.

model.py       Report, typed; its JSON Schema is report.schema.json
collect.py     an output folder -> Report
lines.py       the report as sections of rows, which the next two print
speed.py       speed-ups in words: of one call, of one image, or none shown
terminal.py    for people at a terminal; tables.py: tables of any width, never cut
markdown.py    for a pull request or a wiki
side_by_side.py  what `diffc bench A B` shows
html.py        report.html, one file without a network; html_parts.py and html_speed.py its
               sections, svg.py its charts, markup.py escaping, assets/ its style and script
"""
