"""Well-known networks in a few arguments: `{"preset": "mlp", "width": 512}` is accepted wherever a spec is.

One file a preset. A preset is expanded to a plain spec as soon as it is read; what is stored, shown and built is that
spec, so a preset may change between releases without changing a stored model.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gradinspect.contracts.spec.presets.cnn import CnnPreset
from gradinspect.contracts.spec.presets.mlp import MlpPreset
from gradinspect.contracts.spec.presets.preset import Preset, PresetError
from gradinspect.contracts.spec.presets.resnet import ResnetPreset
from gradinspect.contracts.spec.presets.rnn import RnnPreset
from gradinspect.contracts.spec.presets.transformer import TransformerPreset

AnyPreset = Annotated[
    MlpPreset | CnnPreset | ResnetPreset | RnnPreset | TransformerPreset, Field(discriminator="preset")
]

__all__ = [
    "AnyPreset", "CnnPreset", "MlpPreset", "Preset", "PresetError", "ResnetPreset", "RnnPreset", "TransformerPreset",
]  # fmt: skip
