"""Diff-Pruning: importance -> plan -> surgery -> checkpoint. Works on models alone.

importance/     how much each unit matters: one file for each score
cost.py         the cost of widths: MACs and parameters
allocate.py     widths under a budget: uniform, global
reach.py        how far a network can be lowered; refuses what lies beyond
knapsack.py     the least importance lost under several budgets at once
planning.py     recipe and scores to plan
plan.py         the plan: which channels to keep, and why; plan.json
surgery.py      the cut itself
lora.py         a LoRA of the dense model, cut by the plan
depth/          what a branch or block is worth
repair/         least-squares weights right after the cut
by_latency/     widths by latency that is measured on the target
"""
