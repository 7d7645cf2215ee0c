"""The flow of a run: a file for each stage, in the order in which they run.

data.py            clean samples and their conditions
importance.py      how much every channel matters
plan.py            which channels stay: OUT/plan.json
prune.py           surgery: OUT/pruned
repair.py          least-squares weights for the layers that read cut channels
distill_blocks.py  each block learns alone: new weights for what the cut left of it
distill.py         training: OUT/model
trajectories.py    the dense model's way from noise, for students of a loop
distill_loop.py    training for the loops that are served: OUT/model in the place of distill's
fuse.py            LoRAs that come after the training: OUT/model in its place
samples.py         pictures of both models, and how alike they are: OUT/samples
export.py          ONNX of both sides, with what torch gave: OUT/onnx
decoder.py         the VAE's decoder: ONNX and engine
vae_encoder.py     the VAE's encoder: ONNX and engine
masked_decoder.py  the VAE's decoder with image and mask: ONNX and engine
text.py            the text encoders: tokenizers, ONNX and engines
precision.py       a lower precision, written into the ONNX file
precision_auto.py  the precision that measuring chooses
build.py           engines: OUT/engines
bench.py           figures: latency, memory, parity, whole images
frontier.py        other loops of both sides, in time and quality
explain.py         where the speed-up comes from
serve.py           the loop through an inference server

adapt.py           a LoRA file for OUT/model, cut by its plan
engine_loras.py    LoRAs for OUT's engines, which a call picks by name
order.py           the order of these, and what each verb asks of it
request.py         one run of these, as a verb asks for it
build_and_measure.py  the half of it that needs OUT/onnx alone
finished.py        a finished run in OUT, and a compile that asks for another one there
preflight.py       what can be refused before the first stage
expected.py        what a run will take, by an earlier one or by an estimate
estimate.py        how long the stages will take, and what a run needs
needs.py           what each stage needs of memory and disk, and what does not fit
by_block.py        whether the importance is measured block by block
fit_memory.py      settings with which every stage fits into a memory
counted_stages.py  which stages' calls are counted, and what a count follows from
call_memory.py     what the calls of each stage take of memory, counted without running them
forward_memory.py  the same of stages without gradients
engine_memory.py   what exports and engines need of memory
uncut_memory.py    what the text encoders and the VAE need of memory
call_rate.py       a second of the network's calls, for the estimate of a first run
noise.py           preflight's questions to the scheduler
images.py          what making an image takes, for the stages that time images
conditions.py      the conditions of the pictures that the report judged
judged_samples.py  the loops and the noise of these pictures, for the stages after them

A stage is a frozen dataclass of inputs, a function of these alone, and ``NAME_stage``, which
gathers the inputs. The key of the stage is the hash of the inputs (diffc/stage_inputs.py), the
result a class of diffc/stage_outcomes.py. From data.py to text.py the model is needed; what
follows works from OUT/onnx, without torch; frontier.py and explain.py use it where it is there.
"""
