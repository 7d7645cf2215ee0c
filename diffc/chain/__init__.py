"""The chain of stages that ``compile`` runs, and that every stage verb runs a part of.

output.py   the output folder: whose it is, recipe.lock.yaml
data.py     clean samples and their conditions
front.py    the half that needs the model: importance, plan, prune, distill, export
back.py     the half that needs OUT/onnx alone: build, bench
run.py      the order, and what each verb asks of it
"""
