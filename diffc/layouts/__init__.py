"""OUT/onnx as folders that other libraries open: ``diffc export OUT --layout NAME``.

base.py       what a layout states: its name, who reads it, how it writes a graph and a tokenizer
optimum.py    ONNX files, for optimum-onnx
openvino.py   OpenVINO IR, for OpenVINO GenAI
known.py      the layouts by name
graphs.py     diffc's graphs with the names and shapes that these libraries call them by
torch_graphs.py  text encoders, which OUT/onnx does not hold in their form
write.py      write_layout(): the one way in
"""
