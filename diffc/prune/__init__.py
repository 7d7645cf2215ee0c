"""Diff-Pruning: importance -> plan -> surgery -> checkpoint.

cost.py         what widths cost: MACs and parameters as a function of the widths
importance/     how much each channel matters: one file for each score
allocate.py     widths under a budget: uniform, global
latency.py      widths by latency measured on the target; bench.py: where it is measured
knapsack.py     the least importance lost under several budgets at once
latency_table.py  what each width costs in time, from layers (layers.py) run one by one
                (layer_graphs.py)
planning.py     recipe and scores to plan
plan.py         the plan: which channels to keep, and why; plan.json
surgery.py      the cut itself
"""
