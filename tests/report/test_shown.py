"""The report object that `inspect` returns: the contract's fields, and all ways to display them."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from gradinspect.contracts.document import from_json
from gradinspect.contracts.report.report import Report as Contract
from gradinspect.report.json_form import render_json
from gradinspect.report.shown import Report
from gradinspect.report.words.headline import headline
from tests.support.sample_reports import full, sick


def test_it_has_the_fields_and_parts_of_the_contract() -> None:
    contract = full()
    report = Report.of(contract)
    assert report.model_dump() == contract.model_dump()
    assert report.layers is contract.layers
    assert report.layers[0].backward_gain == 0.5
    assert isinstance(report, Contract)


def test_it_is_printed_as_the_terminal_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = str(Report.of(sick()))
    assert "✖ FAIL" in text
    assert "\x1b" not in text
    prose = text.split("import torch")[0].splitlines()
    assert max(map(len, prose)) <= 70


def test_its_repr_is_one_line() -> None:
    contract = sick()
    assert repr(Report.of(contract)) == f"<Report fail: {headline(contract)}>"


def test_a_notebook_gets_html() -> None:
    report = Report.of(sick())
    assert report._repr_html_().startswith('<div class="gradinspect">')
    assert report.to_html().startswith("<!doctype html>")
    assert report.to_markdown().startswith("## ❌ fail")


def test_json_leaves_out_what_was_not_asked_for_and_can_be_read_back() -> None:
    contract = sick()
    document = json.loads(render_json(contract))
    assert "curvature" not in document
    assert document["inspection"] is None
    assert document["layers"][0]["backward_gain"] == 0.25
    assert from_json(Contract, render_json(Report.of(contract))) == contract


def test_a_frame_has_a_row_a_layer_and_flat_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas: Any = ModuleType("pandas")
    pandas.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    report = Report.of(sick())
    layers = report.to_frame()
    assert len(layers) == 11
    assert layers[0]["signal_rms"] == report.layers[0].signal.rms  # type: ignore[union-attr]  # a chain has signals
    assert layers[0]["activation_std"] == 0.6
    assert [row["name"] for row in report.to_frame("parameters")][:2] == ["0.weight", "0.bias"]


def test_a_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"gradinspect\[pandas\]"):
        Report.of(sick()).to_frame()
