"""Encoders and models as files that other runtimes run: baked for one sensor, in ONNX or as a torch program."""
