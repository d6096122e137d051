"""A small exported program for the warm-up, written here because torch.export would load torch's compiler."""

from __future__ import annotations

import io
import json
from typing import Any
from zipfile import ZipFile

Json = dict[str, Any]  # Any: JSON


def small_program() -> bytes:
    """Return a .pt2 file: y = W·x with a weight of 4 × 4 zeros and a batch of two."""

    def tensor(shape: list[int], requires_grad: bool) -> Json:
        strides = [{"as_int": shape[1]}, {"as_int": 1}]
        return {
            "dtype": 7, "sizes": [{"as_int": size} for size in shape], "strides": strides,
            "storage_offset": {"as_int": 0},
            "requires_grad": requires_grad, "device": {"type": "cpu", "index": None}, "layout": 7,
        }  # fmt: skip

    def argument(name: str, value: str) -> Json:
        return {"name": name, "arg": {"as_tensor": {"name": value}}, "kind": 1}

    leaf: Json = {"type": None, "context": None, "children_spec": []}
    arguments = {"type": "builtins.tuple", "context": "null", "children_spec": [leaf]}
    keywords = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    in_spec = {"type": "builtins.tuple", "context": "null", "children_spec": [arguments, keywords]}
    weight, shape = {"name": "p_weight"}, tensor([4, 4], True)
    node = {
        "target": "torch.ops.aten.linear.default", "inputs": [argument("input", "x"), argument("weight", "p_weight")],
        "outputs": [{"as_tensor": {"name": "y"}}], "metadata": {},
    }  # fmt: skip
    graph = {
        "inputs": [{"as_tensor": weight}, {"as_tensor": {"name": "x"}}], "outputs": [{"as_tensor": {"name": "y"}}],
        "nodes": [node], "tensor_values": {"p_weight": shape, "x": tensor([2, 4], False)}, "sym_int_values": {},
        "sym_bool_values": {},
    }  # fmt: skip
    signature = {
        "input_specs": [
            {"parameter": {"arg": weight, "parameter_name": "weight"}},
            {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
        ],
        "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "y"}}}}],
    }
    call = {"inputs": [], "outputs": [], "in_spec": json.dumps([1, in_spec]), "out_spec": json.dumps([1, leaf])}
    module = {"graph": graph, "signature": signature, "module_call_graph": [{"fqn": "", "signature": call}]}
    program = {
        "graph_module": module, "opset_version": {}, "range_constraints": {},
        "schema_version": {"major": 8, "minor": 0},
    }  # fmt: skip
    stored = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": shape}
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("warm/models/model.json", json.dumps(program))
        archive.writestr("warm/data/weights/weight_0", bytes(64))
        archive.writestr("warm/data/weights/model_weights_config.json", json.dumps({"config": {"weight": stored}}))
    return file.getvalue()
