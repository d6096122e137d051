"""The outline of an HTML page: its elements, its text, and whether its tags are balanced."""

from __future__ import annotations

from html.parser import HTMLParser

VOID_ELEMENTS = {"meta", "br", "link", "input", "img", "hr"}


class HtmlOutline(HTMLParser):
    """A parsed page.

    Attributes:
        elements: tag and attributes, in order.
        open: tags that were not closed.
        words: texts between tags, without style sheets.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of every element of one tag."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        """Return all text with single spaces, without style sheets."""
        return " ".join(" ".join(self.words).split())
