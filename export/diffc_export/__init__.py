"""A torch module becomes an ONNX file and a checked engine; no pruning, no model families here.

    specs.py     what a module takes: names, shapes, dtypes
    onnx/        export, precisions, quantisation
    targets/     one file per runtime: what it builds, what it runs on
    discovery.py the files of a folder, and what other packages add
    events.py    progress of long work
    gpu_names.py compute capabilities by the names of cards
    cache.py     where caches lie
    disks.py     the folders that diffc writes to, and what is said when a disk cannot take or give
                 a file

Imports diffc_runtime; never diffc.
"""
