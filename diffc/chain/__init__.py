"""The chain of stages that ``compile`` runs, and that every stage verb runs a part of.

data.py     clean samples and their conditions
front.py    the half that needs the model: importance, plan, prune, distill, export
back.py     the half that needs OUT/onnx alone: build, bench
run.py      the order, and what each verb asks of it
choose.py   ``--precision auto``: which precision a target gets is measured, not guessed
decoder.py  the VAE decoder of a latent pipeline
images.py   what making an image takes in this run, for the stages that time whole images
ladder.py   the stage that finds where the speed-up comes from: see diffc.measure.explain
noise.py    what a run asks of the model's scheduler before its first stage
preflight.py  what can be refused before the first stage, from the recipe, the configs and the
              files' headers
serve.py    the stage that measures the sampling loop through a real inference server, on this
            machine
"""
