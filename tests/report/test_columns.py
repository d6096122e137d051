"""The columns of the table of layer calls: one line adds a number to every form."""

from dataclasses import replace

import pytest

from gradinspect.contracts.report.rows import LayerMeasurement
from gradinspect.report import columns
from gradinspect.report.columns import COLUMNS, Column, columns_with_values, flat_fields, value_at
from gradinspect.report.html.render import render_html
from gradinspect.report.text.markdown import render_markdown
from gradinspect.report.text.terminal import render_terminal
from tests.support.sample_reports import sick


def test_every_column_is_a_number_of_a_layer_call_under_the_name_of_its_api_field() -> None:
    names = {"_".join(path) for path in flat_fields(LayerMeasurement)}
    assert [column.name for column in COLUMNS if column.name not in names] == []
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)


def test_a_new_column_appears_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    report = sick()
    layers = tuple(layer.model_copy(update={"mean_squared_slope": 0.7654}) for layer in report.layers)
    report = report.model_copy(update={"layers": layers})
    added = Column("mean_squared_slope", "slope", "mean of the squared slope", 2)
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, added))
    for text in (render_terminal(report, width=140), render_markdown(report), render_html(report)):
        assert "slope" in text.lower()
        assert text.count("0.765") == len(layers)


def test_columns_without_a_number_are_left_out() -> None:
    layer = sick().layers[0].model_copy(update={"weight_gain": None})
    assert "weight_gain" not in {column.name for column in columns_with_values([layer])}
    assert "backward_gain" in {column.name for column in columns_with_values([layer])}


def test_a_number_inside_a_missing_document_is_missing() -> None:
    layer = sick().layers[0].model_copy(update={"signal": None})
    column = next(column for column in COLUMNS if column.name == "signal_rms")
    assert column.value(layer) is None
    assert replace(column, derive=lambda value: value / 2).value(layer) is None


def test_theory_is_the_root_of_chi1() -> None:
    layer = sick().layers[0].model_copy(update={"predicted_chi1": 0.25})
    column = next(column for column in COLUMNS if column.title == "theory")
    assert column.value(layer) == 0.5


def test_nested_documents_are_flattened_and_do_not_appear_themselves() -> None:
    paths = list(flat_fields(LayerMeasurement))
    assert ("preactivation", "mean") in paths
    assert ("preactivation",) not in paths
    assert value_at(sick().layers[0], ("activation", "std")) == 0.6
