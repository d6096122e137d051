"""Validation of XML by an XML Schema: only the part of XSD 1.0 that schemas of test reports use.

Supported: elements by name and by reference, sequence, choice, occurrence, mixed content, attributes with their use,
and patterns of strings. Anything else in a schema is an error, so that nothing is ignored silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

XS = "{http://www.w3.org/2001/XMLSchema}"


class Schema:
    """One schema without namespace, read from a file."""

    def __init__(self, path: Path) -> None:
        root = ElementTree.parse(path).getroot()
        self._elements = {node.get("name"): node for node in root.findall(f"{XS}element")}
        self._types = {node.get("name"): node for node in root if node.tag in (f"{XS}complexType", f"{XS}simpleType")}

    def problems(self, document: str) -> list[str]:
        """Return the errors of a document; empty when it is valid."""
        root = ElementTree.fromstring(document)
        declared = self._elements.get(root.tag)
        if declared is None:
            return [f"{root.tag}: no such root element"]
        return list(self._element(root, declared, root.tag))

    def _element(self, node: Element, declared: Element, place: str) -> Iterator[str]:
        kind = self._type(declared)
        if kind is None or kind.tag == f"{XS}simpleType":
            if len(node) or node.attrib:
                yield f"{place}: holds text only"
            yield from self._text(node.text or "", kind, place)
            return
        yield from self._attributes(node, kind, place)
        if kind.get("mixed") != "true" and any((text or "").strip() for text in self._texts(node)):
            yield f"{place}: text is not allowed here"
        model = next((part for part in kind if part.tag in (f"{XS}sequence", f"{XS}choice")), None)
        tags = "".join(f"<{child.tag}>" for child in node)
        if not re.fullmatch(self._pattern(model) if model is not None else "", tags):
            yield f"{place}: children {tags or 'none'} do not fit"
            return
        declarations = {self._resolved(part).get("name"): self._resolved(part) for part in kind.iter(f"{XS}element")}
        for index, child in enumerate(node):
            yield from self._element(child, declarations[child.tag], f"{place}/{child.tag}[{index}]")

    def _type(self, declared: Element) -> Element | None:
        """Return the type of an element or attribute; None for xs:string."""
        inline = next((part for part in declared if part.tag in (f"{XS}complexType", f"{XS}simpleType")), None)
        name = declared.get("type")
        if inline is not None or name in (None, "xs:string"):
            return inline
        return self._types[name]

    def _resolved(self, declared: Element) -> Element:
        reference = declared.get("ref")
        return self._elements[reference] if reference is not None else declared

    def _pattern(self, model: Element) -> str:
        """Return a content model as a regular expression over child tags."""
        if model.tag == f"{XS}element":
            inner = f"<{re.escape(self._resolved(model).get('name') or '')}>"
        elif model.tag in (f"{XS}sequence", f"{XS}choice"):
            inner = ("|" if model.tag == f"{XS}choice" else "").join(self._pattern(part) for part in model)
        else:
            raise ValueError(f"the schema uses {model.tag}, which is not read here")
        most = model.get("maxOccurs", "1")
        return f"(?:{inner}){{{model.get('minOccurs', '1')},{'' if most == 'unbounded' else most}}}"

    def _attributes(self, node: Element, kind: Element, place: str) -> Iterator[str]:
        declared = {part.get("name"): part for part in kind.findall(f"{XS}attribute")}
        for name, part in declared.items():
            if part.get("use") == "required" and name not in node.attrib:
                yield f"{place}: attribute {name} is missing"
        for name, value in node.attrib.items():
            if name not in declared:
                yield f"{place}: attribute {name} is unknown"
            else:
                yield from self._text(value, self._type(declared[name]), f"{place}/@{name}")

    def _text(self, value: str, kind: Element | None, place: str) -> Iterator[str]:
        if kind is None:
            return
        (restriction,) = kind
        (pattern,) = restriction
        if restriction.get("base") != "xs:string" or pattern.tag != f"{XS}pattern":
            raise ValueError(f"the schema restricts {restriction.get('base')}, which is not read here")
        if not re.fullmatch(pattern.get("value") or "", value):
            yield f"{place}: {value!r} does not fit {pattern.get('value')}"

    @staticmethod
    def _texts(node: Element) -> Iterator[str | None]:
        yield node.text
        yield from (child.tail for child in node)
