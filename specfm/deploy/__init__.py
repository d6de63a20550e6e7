"""Encoders and models as files that other runtimes run: baked for one sensor or for any bands, ONNX or torch programs.

bake.py      everything that follows from the bands of one sensor, worked out
free.py      bands as inputs of a graph instead
encoder.py   an encoder as a graph (task models: downstream/deploy/task.py)
graph.py     a graph as a file; int8.py: with small weights; write.py: written, run from its file and compared
facts.py     what travels in the file beside the graph, and whether a scene fits it
runtime.py   the file in ONNX Runtime; features.py: dense features by it (no torch in these three)
"""
