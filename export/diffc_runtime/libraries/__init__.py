"""The only places that open an engine: one file for each runtime.

    ort.py        ONNX Runtime's sessions
    openvino.py   OpenVINO's compiled models
    tensorrt.py   engines and execution contexts of TensorRT, and of TensorRT for RTX

Each turns what its library raises or logs into one line. ``diffc_runtime.loaders`` serves engines
with them; diffc's targets build, bind and time with them.
"""
