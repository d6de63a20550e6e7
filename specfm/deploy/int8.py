"""8-bit (and 4-bit) integers in place of the weights of matrix products and convolutions (ONNX Runtime).

* ``dynamic``: matrix products; activations are scaled as they come, so nothing needs to be known of them.
* ``static``: matrix products and convolutions; activations are scaled by what calibration inputs show (fastest).
* ``weights8``, ``weights4``: matrix products keep float activations, their weights are integers in blocks (smallest).

Weights have one scale a channel, or a block. Only the trunk is touched: whitened stems before it amplify what is small,
and rounding with it; heads behind it are small.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from specfm.deploy.calibrate import Calibration, calibrated_ranges
from specfm.deploy.facts import KEY, Facts
from specfm.deploy.graph import quiet
from specfm.errors import UsageError

How = Literal["dynamic", "static", "weights8", "weights4"]
OPERATIONS: dict[str, tuple[str, ...]] = {
    "dynamic": ("MatMul", "Gemm"),
    "static": ("MatMul", "Gemm", "Conv"),
    "weights8": ("MatMul",),
    "weights4": ("MatMul",),
}
PRECISION: dict[str, str] = {
    "dynamic": "int8",
    "static": "int8 static",
    "weights8": "int8 weights",
    "weights4": "int4 weights",
}
TRUNK = ".blocks."
BLOCK = 32  # weights of one scale, where only weights are integers
BITS = {"weights8": 8, "weights4": 4}


def quantise(
    source: Path,
    out: Path,
    facts: Facts,
    how: How = "dynamic",
    samples: Iterable[Mapping[str, NDArray[Any]]] | None = None,
    calibration: Calibration = "minmax",
) -> None:
    """Write the same model with integer weights.

    Args:
        source: an ONNX file that specfm exported.
        out: to be written.
        facts: to be written in it.
        how: see above.
        samples: inputs by name, as the model will see them (``static``).
        calibration: how ranges follow from them, see :func:`specfm.deploy.calibrate.calibrated_ranges`.

    Raises:
        UsageError: an unknown method, ``static`` without samples, or a trunk without operations that it makes small.
    """
    import onnx

    if how not in OPERATIONS:
        raise UsageError(f"int8 is {how!r}; choose one of {', '.join(OPERATIONS)}")
    model = onnx.load(str(source))
    constant = {each.name for each in model.graph.initializer}
    chosen = [
        node.name
        for node in model.graph.node
        if node.op_type in OPERATIONS[how]
        and TRUNK in f".{node.name}"
        and (how not in BITS or node.input[1] in constant)
    ]
    if not chosen:
        kinds = " or ".join({"MatMul": "matrix products", "Conv": "convolutions"}.get(o, "") for o in OPERATIONS[how])
        raise UsageError(
            f"the trunk of this model has no {kinds.replace(' or  or ', ' or ')}, which are what {how} integers make "
            "small; leave int8 out, or choose static"
        )
    with quiet():
        if how in BITS:
            small = _weights(model, chosen, BITS[how])
        elif how == "dynamic":
            small = _dynamic(model, chosen)
        else:
            if samples is None:
                raise UsageError("static integers need calibration inputs, and there are none; name a scene for them")
            small = _static(source, chosen, samples, calibration)
    del small.metadata_props[:]
    entry = small.metadata_props.add()
    entry.key, entry.value = KEY, facts.to_json()
    out.write_bytes(small.SerializeToString())


def _dynamic(model: Any, chosen: list[str]) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "dynamic.onnx"
        quantize_dynamic(
            model, str(made), op_types_to_quantize=list(OPERATIONS["dynamic"]), per_channel=True,
            weight_type=QuantType.QInt8, nodes_to_quantize=chosen,
        )  # fmt: skip
        return onnx.load(str(made))


def _static(
    source: Path, chosen: list[str], samples: Iterable[Mapping[str, NDArray[Any]]], calibration: Calibration
) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    ranges = calibrated_ranges(source, OPERATIONS["static"], samples, calibration)
    with tempfile.TemporaryDirectory() as folder:
        kept, made = Path(folder) / "ranges.json", Path(folder) / "static.onnx"
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), kept)
        quantize_static(
            str(source), str(made), None, op_types_to_quantize=list(OPERATIONS["static"]), per_channel=True,
            reduce_range=False, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen, calibrate_method=CalibrationMethod.MinMax, calibration_cache_path=kept,
        )  # fmt: skip
        return onnx.load(str(made))


def _weights(model: Any, chosen: list[str], bits: int) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    rest = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in set(chosen)]
    maker = MatMulNBitsQuantizer(model, bits=bits, block_size=BLOCK, is_symmetric=True, nodes_to_exclude=rest)
    maker.process()
    return maker.model.model
