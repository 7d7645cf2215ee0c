"""The inference server's folder: what diffc leaves behind, ready to serve.

    build.py          write_bundle(): the one way in
    ahead.py          what would make it fail, before there are engines
    contents.py       which engines go into it, and what is said of them
    folder.py         writing into a folder that may hold other people's files
    plain.py          engine, runtime, README, for a service of one's own
    triton.py         a model repository for Triton Inference Server
    triton_config.py  its config.pbtxt files, from the protobuf message
    triton_check.py   what the message's grammar does not check
    readme.py         the README that goes with either
    served.py         latency and throughput through a running server

The code that runs in the bundle is diffc_runtime.
"""

from diffc.bundle.build import SERVERS, Bundle, write_bundle

__all__ = ["SERVERS", "Bundle", "write_bundle"]
