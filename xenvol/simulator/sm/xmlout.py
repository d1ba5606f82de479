"""The XML that storage drivers print: probe results, and the lists in the third parameter of a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from xml.dom.minidom import Document, Element

Tree = tuple[str, "str | Iterable[Tree]"]
"""An element: its name, and its text or its children."""


def pretty(root: str, children: Iterable[Tree] = ()) -> str:
    """Return XML as drivers print it: declaration, tabs, a line break at the end (trace sm/20a#19)."""
    document = Document()
    document.appendChild(_element(document, (root, children)))
    return document.toprettyxml()


def printed(root: str, children: Iterable[Tree] = ()) -> str:
    """Return XML as it arrives through a driver's stderr, with one more line break."""
    return pretty(root, children) + "\n"


def _element(document: Document, tree: Tree) -> Element:
    name, content = tree
    element = document.createElement(name)
    if isinstance(content, str):
        element.appendChild(document.createTextNode(content))
    else:
        for child in content:
            element.appendChild(_element(document, child))
    return element
