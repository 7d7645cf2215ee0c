"""Templates that ``diffc bundle --server triton`` copies into a model repository.

    serving.py   a request's tensors -> Pipeline.generate -> response tensors; copied beside each
    pipeline.py  the whole loop in process                      -> pipeline/1/model.py
    bls.py       the loop here, every step on the denoiser model -> pipeline_bls/1/model.py
    engine.py    an engine in the python backend, where the server's build lacks its own backend
    client.py    a client of the pipeline, over HTTP            -> client.py

They run inside the server, on numpy and the runtime beside them; nothing here is imported by diffc.
"""
