"""A page read back: its tables, its links, its text, as html.parser sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "rect"}
TEXTLESS = ("style", "script")


@dataclass
class Table:
    """A table: its caption, and its rows of cells, the head's first."""

    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)

    def column(self, name: str) -> dict[str, str]:
        """A column's cells by the first cell of their row."""
        place = self.rows[0].index(name)
        return {row[0]: row[place] for row in self.rows[1:]}


class Reader(HTMLParser):
    """Reads a page; complains of tags that do not close each other."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tables: list[Table] = []
        self.links: list[tuple[str, str, str]] = []  # tag, attribute, value
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        said = {name: value or "" for name, value in attrs}
        self.ids += [said["id"]] if "id" in said else []
        self.links += [(tag, name, said[name]) for name in ("src", "href", "srcset", "action", "data") if name in said]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append(Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append("")
            if tag == "th":
                self.tables[-1].scopes.append(said.get("scope", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> closes nothing, line {self.getpos()[0]}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in TEXTLESS:
            return
        self.words.append(data)
        if "caption" in self.open and "table" in self.open:
            self.tables[-1].caption += data
        elif "td" in self.open or ("th" in self.open and "table" in self.open):
            self.tables[-1].rows[-1][-1] += data

    @property
    def text(self) -> str:
        """All that is to be read, in order."""
        return " ".join(" ".join(self.words).split())

    def table(self, caption: str) -> Table:
        """The first table whose caption begins so."""
        return next(t for t in self.tables if t.caption.strip().startswith(caption))
