"""The report: one model (report.json), and its renderings.

model.py       Report, typed; its JSON Schema is report.schema.json
collect.py     an output folder -> Report
terminal.py    for people at a terminal of 80 columns
markdown.py    for a pull request or a wiki
side_by_side.py  what `diffc bench A B` shows
html.py        report.html, one file without a network; html_parts.py its sections, svg.py its
               charts, markup.py escaping, assets/ its style and script
"""
