"""From a module to a file that another runtime runs: ONNX, or a torch program (pt2).

The batch stays free, and the bands where they are inputs; everything else is as in the example. In ONNX a mask may be
left out (all pixels are then valid).
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from specfm.deploy.facts import KEY, Facts
from specfm.errors import SpecfmError, UsageError

FORMATS = ("onnx", "pt2")
MASKS = "mask"  # names of inputs that may be left out begin so


def format_of(out: Path, asked: str | None) -> str:
    """The format that is meant.

    Raises:
        UsageError: none is known by that name or suffix.
    """
    found = out.suffix.lower().removeprefix(".") if asked is None else asked
    if found not in FORMATS:
        said = f"--format {asked}" if asked is not None else f"{out}: the suffix says no format"
        raise UsageError(f"{said}; choose one of {', '.join(FORMATS)}")
    return found


def traced(module: nn.Module, example: Mapping[str, Tensor], free: Mapping[str, dict[int, Any]]) -> Any:
    """A torch ExportedProgram of a module in evaluation.

    Args:
        module: its ``forward`` takes ``*given``, the inputs in the order of the example.
        example: inputs by name.
        free: axes of inputs that may have any size, and the ``torch.export.Dim`` of each.

    Raises:
        SpecfmError: a part of the module has no graph; the message says which.
    """
    shapes = (tuple(free.get(name) for name in example),)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module.eval(), tuple(example.values()), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise SpecfmError(f"the model has a part that cannot be exported: {_first_line(error)}") from error


def write_onnx(program: Any, names: Sequence[str], outputs: Sequence[str], out: Path, facts: Facts) -> None:
    """Write an ExportedProgram as one ONNX file, facts in its metadata.

    Raises:
        SpecfmError: an operation without an ONNX form.
    """
    import onnx
    from onnx_ir.passes.common import DeduplicateInitializersPass

    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=list(names), output_names=list(outputs), verbose=False
            )
            assert made is not None
            DeduplicateInitializersPass()(made.model)  # both dates of a change model share their trunk
        proto = made.model_proto
    except Exception as error:
        raise SpecfmError(f"the model has a part without a form in ONNX: {_first_line(error)}") from error
    for name in names:
        if name.startswith(MASKS):
            _optional_mask(proto.graph, name, names[0] if name == "mask_BHW" else "x2_BHWC")
    _plain_names(proto.graph)
    proto.producer_name, proto.producer_version = "specfm", facts.version
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, facts.to_json()
    if proto.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise SpecfmError("the model is larger than one ONNX file may be (2 GB); export it with --format pt2")
    out.write_bytes(proto.SerializeToString())


def write_pt2(program: Any, out: Path, facts: Facts) -> None:
    """Write an ExportedProgram for ``torch.export.load``; facts are its extra file ``specfm.json``."""
    with quiet():
        torch.export.save(program, out, extra_files={f"{KEY}.json": facts.to_json()})


def _optional_mask(graph: Any, name: str, cube: str) -> None:
    """Give a mask a default: one that is all valid and is spread over the batch."""
    from onnx import TensorProto, helper

    given = next(each for each in graph.input if each.name == name)
    sides = [dim.dim_value for dim in given.type.tensor_type.shape.dim][1:]
    for node in graph.node:
        for place, used in enumerate(node.input):
            if used == name:
                node.input[place] = f"{name}_spread"
    given.type.tensor_type.shape.dim[0].Clear()
    given.type.tensor_type.shape.dim[0].dim_param = f"batch_of_{name}"
    graph.initializer.append(helper.make_tensor(name, TensorProto.BOOL, [1, *sides], [True] * (sides[0] * sides[1])))
    graph.node.insert(0, helper.make_node("Expand", [name, f"{name}_shape"], [f"{name}_spread"]))
    graph.node.insert(0, helper.make_node("Shape", [cube], [f"{name}_shape"], start=0, end=3))


def _plain_names(graph: Any) -> None:
    """Nodes called by the part of the model they are of; what the exporter notes of source lines goes."""
    for number, node in enumerate(graph.node):
        told = {each.key: each.value for each in node.metadata_props}
        scopes = ast.literal_eval(told.get("pkg.torch.onnx.name_scopes", "[]"))
        node.name = "/".join([*scopes[-2:-1], f"{node.op_type}_{number}"])
    for each in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output, graph):
        if hasattr(each, "metadata_props"):
            del each.metadata_props[:]
        each.doc_string = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What exporters tell of themselves is for their makers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: BaseException) -> str:
    """The innermost cause in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
