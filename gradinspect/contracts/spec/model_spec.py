"""A model spec: `torch.nn` in JSON. Layers in order, with torch's own class names and arguments."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from gradinspect.contracts.document import Document, located
from gradinspect.contracts.spec.initialization import Init
from gradinspect.contracts.spec.layers import Entry
from gradinspect.contracts.spec.layers.containers import MAX_CALLS
from gradinspect.contracts.spec.plan import Plan
from gradinspect.contracts.spec.presets import AnyPreset, Preset, PresetError
from gradinspect.contracts.spec.spec_error import SpecError
from gradinspect.contracts.spec.spec_input import SpecInput
from gradinspect.contracts.spec.walk import make_plan

__all__ = ["ModelSpec", "SpecInput"]

# Tags of the two forms a spec has; no field has such a name, so error pointers pass over them.
_PLAIN, _PRESET = "(spec)", "(preset)"


def _form(value: object) -> str:
    return _PRESET if isinstance(value, Preset) or (isinstance(value, dict) and "preset" in value) else _PLAIN


def _expanded(preset: Preset) -> ModelSpec:
    try:
        return ModelSpec.model_validate_json(json.dumps(preset.expand()))
    except PresetError as fault:
        raise located("ModelSpec", fault.field, fault.detail) from None
    except ValidationError as error:
        why = "; ".join(part["msg"] for part in error.errors(include_url=False)[:3])
        raise located("ModelSpec", ("preset",), f"what {preset.preset} expands to does not fit: {why}") from None


class ModelSpec(Document):
    """A network: its input, its layers, and the initial values of its parameters.

    A preset is accepted wherever a spec is, and expanded on reading.
    """

    input: SpecInput
    layers: Annotated[tuple[Entry, ...], Field(min_length=1, max_length=MAX_CALLS)]
    init: Init | None = Field(default=None, description="For every layer; left out: torch's own defaults.")

    @cached_property
    def plan(self) -> Plan:
        """The calls, shapes and parameters of this network."""
        return make_plan(self.input.shape, tokens=self.input.holds_tokens, layers=self.layers, init=self.init)

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSpec:
        try:
            vocabulary = self.plan.vocabulary
        except SpecError as fault:
            raise located("ModelSpec", fault.location, fault.detail) from None
        if vocabulary is None or not self.input.holds_tokens:
            return self
        if self.input.high is None:
            # Written into the field that the engine and the stored document read, while the instance is validated.
            self.__dict__["input"] = self.input.model_copy(update={"high": vocabulary})
        elif self.input.high > vocabulary:
            detail = f"tokens up to {self.input.high - 1} do not fit an Embedding of {vocabulary}"
            raise located("ModelSpec", ("input", "high"), detail)
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:  # Any: pydantic's
        plain = handler(source)
        if plain["type"] == "tagged-union":  # already built, and reused inside another model
            return plain
        preset = core_schema.no_info_after_validator_function(_expanded, handler.generate_schema(AnyPreset))
        return core_schema.tagged_union_schema({_PLAIN: plain, _PRESET: preset}, discriminator=_form)
