"""8-bit integers in place of the weights of matrix products (ONNX Runtime, dynamic quantisation)."""

from __future__ import annotations

from pathlib import Path

from specfm.deploy.facts import KEY, Facts
from specfm.deploy.graph import quiet
from specfm.errors import UsageError

OPERATIONS = ("MatMul", "Gemm")
# Only the trunk: whitened stems before it amplify what is small, and rounding with it; heads behind it are small.
TRUNK = ".blocks."


def quantise(source: Path, out: Path, facts: Facts) -> None:
    """Write the same model with int8 weights, one scale a channel; activations are scaled as they come.

    Args:
        source: an ONNX file that specfm exported.
        out: to be written.
        facts: to be written in it.

    Raises:
        UsageError: the trunk has no matrix products (a convolutional network).
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    chosen = [node.name for node in model.graph.node if node.op_type in OPERATIONS and TRUNK in f".{node.name}"]
    if not chosen:
        raise UsageError(
            "the trunk of this model has no matrix products, which are what --int8 makes small; leave it out"
        )
    with quiet():
        quantize_dynamic(
            model, str(out), op_types_to_quantize=list(OPERATIONS), per_channel=True,
            weight_type=QuantType.QInt8, nodes_to_quantize=chosen,
        )  # fmt: skip
    small = onnx.load(str(out))
    del small.metadata_props[:]
    entry = small.metadata_props.add()
    entry.key, entry.value = KEY, facts.to_json()
    out.write_bytes(small.SerializeToString())
