"""Lines of layers in a spec's text, for every form of nesting."""

import json

from gradinspect.contracts.document import from_json
from gradinspect.contracts.spec.model_spec import ModelSpec
from gradinspect.contracts.spec.plan import Call
from gradinspect.contracts.spec.source_lines import layer_lines

NESTED = """{"input": {"shape": [4, 8]},
 "layers": [
  {"repeat": 2, "layers": [
   {"type": "Linear", "out_features": 8, "name": "hidden"},
   {"type": "ReLU"}]},
  {"type": "Residual",
   "layers": [
    {"type": "Sequential", "layers": [
     {"type": "Tanh"}]}],
   "shortcut": [
    {"type": "Identity"}]},
  {"type": "Concat", "dim": -1, "branches": [
   [{"type": "ReLU"}],
   [{"type": "ReLU"},
    {"type": "Tanh"}]]}]}
"""


def test_repeats_branches_and_shortcuts_keep_the_lines_of_their_layers() -> None:
    assert layer_lines(NESTED) == {
        "hidden_0": 4, "1": 5, "hidden_1": 4, "3": 5, "4.0.0": 9, "4.shortcut.0": 11,
        "5.0.0": 13, "5.1.0": 14, "5.1.1": 15,
    }  # fmt: skip


def test_the_layers_of_a_preset_have_no_lines() -> None:
    assert layer_lines('{"preset": "mlp", "depth": 2, "activation": "ReLU"}') == {}


def test_every_layer_call_has_a_line_whatever_the_white_space() -> None:
    spec = from_json(ModelSpec, NESTED.encode())
    paths = {call.path for call in spec.plan.calls() if isinstance(call, Call)}
    for indent in (None, 0, 4):
        assert layer_lines(json.dumps(json.loads(NESTED), indent=indent)).keys() == paths
