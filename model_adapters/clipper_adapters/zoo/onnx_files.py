"""Writes the zoo's networks as ONNX files, weight by weight.

torch's own exporter needs one more package (onnxscript) and seconds per model; the few layers of
the zoo map one to one onto ONNX operators.
"""

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from .networks import ResidualBlock

#: Understood by every ONNX Runtime since 1.10.
OPSET = 13
IR_VERSION = 8


def export_onnx(module: nn.Module, row_shape: tuple[int, ...], path: str | Path) -> Path:
    """Write a network of the zoo as an ONNX file with a dynamic batch axis.

    Parameters
    ----------
    module : torch.nn.Module
        What `train_mlp`, `mlp_784` or `resnet20` returned.
    row_shape : tuple of int
        The shape of one input row, such as ``(64,)``.
    path : str or Path
        Where to write; the input is named ``"input"``, the output ``"output"``.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    TypeError
        If the module has a layer that no network of the zoo has.
    """
    graph = Graph()
    last = graph.layer(module, "input")
    graph.nodes.append(helper.make_node("Identity", [last], ["output"], "output"))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            type(module).__name__,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *row_shape])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="clipper",
    )
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return Path(path)


class Graph:
    """The nodes and weights of an ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, x: str, *operands: str, **attributes: Any) -> str:
        """Append a node; return the name of its output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [x, *operands], [name], name, **attributes))
        return name

    def weight(self, value: Any) -> str:
        """Store a torch tensor; return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.detach().cpu().numpy(), name))
        return name

    def layer(self, module: nn.Module, x: str) -> str:
        """Append what a module does to ``x``; return the name of its output."""
        match module:
            case nn.Sequential():
                for part in module:
                    x = self.layer(part, x)
            case ResidualBlock():
                x = self.add("Add", self.layer(module.body, x), self.layer(module.shortcut, x))
                x = self.add("Relu", x)
            case nn.Linear():
                weights = self.weight(module.weight), self.weight(module.bias)
                x = self.add("Gemm", x, *weights, transB=1)
            case nn.ReLU():
                x = self.add("Relu", x)
            case nn.Conv2d(bias=None, padding=(int(), int())):
                x = self._convolution(module, x)
            case nn.BatchNorm2d():
                moments = module.weight, module.bias, module.running_mean, module.running_var
                names = [self.weight(moment) for moment in moments]
                x = self.add("BatchNormalization", x, *names, epsilon=module.eps)
            case nn.AdaptiveAvgPool2d(output_size=1):
                x = self.add("GlobalAveragePool", x)
            case nn.Flatten(start_dim=1, end_dim=-1):
                x = self.add("Flatten", x, axis=1)
            case _:
                raise TypeError(
                    f"export_onnx got a {type(module).__name__}; it writes only the layers of the "
                    "zoo's networks: use torch.onnx.export for others"
                )
        return x

    def _convolution(self, module: nn.Conv2d, x: str) -> str:
        return self.add(
            "Conv",
            x,
            self.weight(module.weight),
            kernel_shape=list(module.kernel_size),
            strides=list(module.stride),
            dilations=list(module.dilation),
            pads=[*module.padding, *module.padding],
            group=module.groups,
        )
