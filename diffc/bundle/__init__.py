"""The inference server's folder: the result of diffc, ready to serve.

    build.py          write_bundle(): the one way in
    ahead.py          what would make it fail, before there are engines
    contents.py       which engines go into it, and the facts about them
    folder.py         writing into a folder that may hold other people's files
    plain.py          engine, runtime, README, for a service of one's own
    ovms.py           a folder for OpenVINO Model Server
    triton.py         a model repository for Triton Inference Server
    triton_config.py  its config.pbtxt files, from the protobuf message
    triton_check.py   checks that the message's grammar does not make
    readme.py         the README that goes with each
    server.py         a tritonserver on this machine
    served.py         latency and throughput through a running server

The code that runs in the bundle is diffc_runtime.
"""
