"""An ONNX graph, built node by node.

Values are identified by names. A constant is stored once per name, so parameters that layers share occur in the file
only once. A branch, or the body of a loop, is a graph inside of another, which reads the values outside of it by their
names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

Axes = tuple[str, ...]
"""The axes of a value: numbers, or names for variable sizes."""
FLOAT, UINT8, INT8, INT32, INT64, BOOL = 1, 2, 3, 6, 7, 9
"""ONNX's codes for types."""
MOST_BRANCHES = 31
"""Branches inside of each other. Readers of ONNX files refuse messages of more than 100 levels, and a branch takes
three."""
OPSET = 17  # the first with LayerNormalization; nothing used here needs a later one
IR_VERSION = 8  # of the same release


class Graph:
    """Nodes and constants in the order in which they were added."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.loading: list[Any] = []
        """Nodes that read constants alone, which a runtime executes once, when it loads the file."""
        self.constants: dict[str, np.ndarray] = {}
        self.settings: dict[str, float] = {}
        self.scope = ""
        """The branch or body that nodes are added to, as the end of a name; empty outside of all of them."""
        self._count = 0

    def constant(self, name: str, array: Any) -> str:
        """The name of a constant; if the name is already in use, the first array is kept."""
        if name not in self.constants:
            self.constants[name] = np.array(array, order="C")
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number/{value!r}", np.float32(value))

    def numbers(self, *values: int) -> str:
        """A vector of int64: axes, shapes."""
        return self.constant(f"numbers/{'_'.join(map(str, values))}", np.array(values, np.int64))

    def setting(self, name: str, value: float) -> str:
        """A float32 scalar that is an input of the file, with a default."""
        self.settings[name] = value
        return self.constant(name, np.float32(value))

    def has(self, name: str) -> bool:
        """Whether the branch that nodes are added to has a node of that name. One outside of it does not count, because
        ONNX Runtime joins no two nodes across the edge of a branch: an integer product is one only if all its nodes are
        in the same graph."""
        return any(node.name == name for node in self.nodes)

    @contextmanager
    def at_load(self) -> Iterator[None]:
        """Adds nodes in front of the graph, outside of all branches, for results that are the same in every call."""
        outer, scope = self.nodes, self.scope
        self.nodes, self.scope = self.loading, ""
        yield
        self.nodes, self.scope = outer, scope

    def filled(self, size: int, kind: int) -> str:
        """A vector of zeros."""
        from onnx import helper

        return self.node("ConstantOfShape", self.numbers(size), value=helper.make_tensor("", kind, [1], [0]))

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The name of the first output of a new node."""
        from onnx import helper

        self._count += 1
        output = name or f"{kind}_{self._count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def pair(self, kind: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """The names of the two outputs of a new node."""
        from onnx import helper

        self._count += 1
        outputs = f"{kind}_{self._count}", f"{kind}_{self._count}/second"
        self.nodes.append(helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes))
        return outputs

    def size(self, x: str, axis: int) -> str:
        """The size of an axis, as a vector with one number."""
        return self.node("Slice", self.node("Shape", x), self.numbers(axis), self.numbers(axis + 1))

    def columns(self, name: str, array: Any, size: str) -> str:
        """The first columns [1, size] of a constant vector."""
        whole = self.constant(name, np.asarray(array)[None])
        return self.node("Slice", whole, self.numbers(0), size, self.numbers(1))

    def either(
        self,
        condition: str,
        then: Callable[[], Sequence[str]],
        other: Callable[[], Sequence[str]],
        kinds: Sequence[tuple[int, Axes]],
    ) -> list[str]:
        """Values that are computed in one of two ways, of which only one is executed. `then` and `other` add the nodes
        of their branch and return the names of its results, whose types and axes are `kinds`: OpenVINO refuses results
        of unknown rank."""
        from onnx import helper

        self._count += 1
        name, branches = f"If_{self._count}", {}
        for branch, build in (("then_branch", then), ("else_branch", other)):
            outer, scope = self.nodes, self.scope
            self.nodes, self.scope = [], f"{scope}/{name}"
            results = [value_info(one, *kind) for one, kind in zip(build(), kinds, strict=True)]
            branches[branch] = helper.make_graph(self.nodes, f"{name}/{branch}", [], results)
            self.nodes, self.scope = outer, scope
        outputs = [f"{name}/{number}" for number in range(len(kinds))]
        self.nodes.append(helper.make_node("If", [condition], outputs, name=name, **branches))
        return outputs

    def loop(
        self,
        build: Callable[[], Sequence[str]],
        most: int,
        going: str,
        carried: Mapping[str, tuple[str, Axes]],
    ) -> list[str]:
        """Repeats a graph, at most so often, and only while the boolean scalar `going` is true. Returns the values that
        are carried from step to step, after the last.

        `carried` has their names inside of the loop, each with the name of the value before the first step and its
        axes; all are float32. `build` adds the nodes of one step and returns the names of these values after it, with
        that of `going` in front. It may read `number`, the number of the step, an int64 scalar.
        """
        from onnx import helper

        given = [value_info(name, FLOAT, axes) for name, (_, axes) in carried.items()]
        given = [value_info("number", INT64, ()), value_info("went_on", BOOL, ()), *given]
        outer, scope = self.nodes, self.scope
        self.nodes, self.scope = [], f"{scope}/steps"
        after, axes = build(), [(), *(shape for _, shape in carried.values())]
        results = list(map(value_info, after, [BOOL, *[FLOAT] * len(carried)], axes))
        step = helper.make_graph(self.nodes, "step", given, results)
        self.nodes, self.scope = outer, scope
        limit, before = self.constant(f"index/{most}", np.int64(most)), [start for start, _ in carried.values()]
        names = [f"{name}/last" for name in carried]
        self.nodes.append(helper.make_node("Loop", [limit, going, *before], names, name="steps", body=step))
        return names

    def model(self, inputs: list[str], outputs: dict[str, Axes], title: str) -> Any:
        """The finished model, with int64 inputs [batch, length] and outputs with the given axes, checked by ONNX.
        Outputs are float32, and those with the batch as their only axis int64."""
        import onnx
        from onnx import helper, numpy_helper

        from bertjax import __version__

        given = [value_info(name, INT64, ("batch", "length")) for name in inputs]
        settings = [value_info(name, FLOAT, ()) for name in self.settings]
        results = [value_info(n, INT64 if axes == ("batch",) else FLOAT, axes) for n, axes in outputs.items()]
        stored = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.loading + self.nodes, title, given + settings, results, stored)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="bertjax", producer_version=__version__
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def value_info(name: str, kind: int, axes: Axes) -> Any:
    """Name, type and axes of a value, as inputs and outputs are described."""
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, [int(axis) if axis.isdigit() else axis for axis in axes])
