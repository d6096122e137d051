"""docs/settings.md is generated from the settings, and every setting has a description."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from service.settings_document import document

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_generated_from_the_settings() -> None:
    assert PAGE.read_text(encoding="utf-8") == document(), "run: make documents"


def test_an_empty_default_is_named() -> None:
    assert "``" not in document()
    assert "| `GRADINSPECT_ALLOWED_HOSTS` | none |" in document()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description(name: str) -> None:
    assert Settings.model_fields[name].description
