"""The ONNX front end: load, shapes, trace, run, save."""
