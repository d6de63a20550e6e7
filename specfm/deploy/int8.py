"""8-bit integers in place of the weights of matrix products (ONNX Runtime, dynamic quantisation)."""

from __future__ import annotations

from pathlib import Path

from specfm.deploy.facts import KEY, Facts
from specfm.deploy.graph import quiet
from specfm.errors import UsageError
from specfm.files import publish_file, refuse_existing, temporary_sibling

OPERATIONS = ("MatMul", "Gemm")
# Only the trunk: whitened stems before it amplify what is small, and rounding with it; heads behind it are small.
TRUNK = ".blocks."


def quantise(source: Path, out: Path, facts: Facts, overwrite: bool) -> None:
    """Write the same model with int8 weights, one scale a channel; activations are scaled as they come.

    Args:
        source: an ONNX file that specfm exported.
        out: to be written.
        facts: to be written in it.
        overwrite: replace ``out``.

    Raises:
        UsageError: ``out`` exists, or the trunk has no matrix products (a convolutional network).
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    refuse_existing(out, overwrite)
    model = onnx.load(str(source))
    chosen = [node.name for node in model.graph.node if node.op_type in OPERATIONS and TRUNK in f".{node.name}"]
    if not chosen:
        raise UsageError(
            f"{out}: the trunk of this model has no matrix products, which are what --int8 makes small; leave it out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(out)
    try:
        with quiet():
            quantize_dynamic(
                model, str(temporary), op_types_to_quantize=list(OPERATIONS), per_channel=True,
                weight_type=QuantType.QInt8, nodes_to_quantize=chosen,
            )  # fmt: skip
        small = onnx.load(str(temporary))
        del small.metadata_props[:]
        entry = small.metadata_props.add()
        entry.key, entry.value = KEY, facts.to_json()
        temporary.write_bytes(small.SerializeToString())
        publish_file(temporary, out, overwrite)
    finally:
        temporary.unlink(missing_ok=True)
