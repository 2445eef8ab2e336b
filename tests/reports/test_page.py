"""Page and figures: one content in two forms, hostile text harmless in both, nothing that leaves the file."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from uamix_bench.reports import drawing, figures
from uamix_bench.reports.blocks import Block, Cell, Code, Facts, Figure, Prose, Section, Table, clean, percent
from uamix_bench.reports.matrix import matrix
from uamix_bench.reports.page import Page, environment, render

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</td></tr></table><h1>owned",
    "]]></style><style>*{display:none}",
    "{{ 7 * 7 }} {% raw %}",
    "evil | 99.9 |\n| best | 100.0",
    "[click](http://evil.example) ![x](http://evil.example/x.png)",
    "https://evil.example www.evil.example @everyone #1",
    "# heading\n\n---\n\n- item\n1. one",
    "```\nout of the fence",
    "**bold** _under_ ~~gone~~ `code` <b>",
    "$\\frac{1}{0}$ $x_1$",
    "&lt;b&gt; &#60;",
    "\u202edlrow\u202c \u2066x\u2069 zero\u200bwidth",
    "nul\x00 bell\x07 esc\x1b[31m",
    "=cmd|' /C calc'!A0",
    "|",
    "\\|\\",
    "===",
    "+ plus",
    "1. number",
    "\ue000-title",
]
VOID = {"meta", "input", "br"}


class Tags(HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def content(word: str) -> list[Block]:
    """Every kind of block, with `word` wherever text from outside may stand."""
    table = Table(
        ("", "value>"),
        [(word, Cell("1", word, note=word)), ("b", percent(0.5, 0.01))],
        word,
        word,
        {word: [(word, "2")]},
    )
    drawing = figures.curves(
        word, {word: [figures.Series(word, [1, 2], [3, 4])]}, x_label=word, y_label=word, description=word
    )
    return [
        Section(
            word,
            [Prose(word), Facts({word: word}), Code(word, word), table, drawing, Section("x", [], data={"x": word})],
        )
    ]


@cache
def page(word: str) -> Page:
    word = word.replace("\n\n", "\n")  # a blank line begins a paragraph
    return render(word, content(word), lead=word, footer=word)


def markdown(text: str) -> list[Token]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(text)


def without_drawings(html: str) -> str:
    return re.sub(r"<svg.*?</svg>", "<svg></svg>", html, flags=re.DOTALL)


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_text_adds_no_tag_attribute_or_address(word: str) -> None:
    plain, hostile = (Tags(without_drawings(page(text).html)) for text in ("word", word))
    assert hostile.tags == plain.tags
    assert [(tag, name) for tag, name, _ in hostile.attributes] == [(tag, name) for tag, name, _ in plain.attributes]
    plain, hostile = (Tags(page(text).html) for text in ("word", word))  # a drawing may break the words into lines
    assert {(tag, name) for tag, name, _ in hostile.attributes} == {(tag, name) for tag, name, _ in plain.attributes}
    assert set(hostile.tags) == set(plain.tags)
    addresses = [value for _, name, value in hostile.attributes if name in ("href", "src")]
    assert all(value and value.startswith("#") for value in addresses)
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069\u200b\ue000]", page(word).html)


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_text_forges_no_markdown(word: str) -> None:
    def shape(text: str) -> list[str]:
        inline = [part.type for token in markdown(text) for part in token.children or () if part.type != "text_special"]
        return [token.type for token in markdown(text)] + sorted(set(inline))

    assert shape(page(word).markdown) == shape(page("word").markdown)
    said = [token.content for token in markdown(page(word).markdown) if token.type == "inline"]
    shown = MarkdownIt().renderInline(said[0])
    assert "".join(Tags(shown).text) == clean(word)


def test_both_forms_say_the_same() -> None:
    made = page("same")
    words = set("".join(Tags(made.html.partition("<main")[2]).text).split())
    missing = {word for word in re.findall(r"[A-Za-z]+|\d+\.\d", made.markdown) if word not in " ".join(words)}
    assert missing == set()


def test_a_page_needs_nothing_from_outside() -> None:
    html = page("x").html
    policy = re.search(r'Policy" content="([^"]*)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(src|href)="(?!#)', html)
    assert " style=" not in html
    assert not re.search(r"https?://(?!www\.w3\.org/)", html)
    ids = [value for _, name, value in Tags(html).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_rendering_is_deterministic() -> None:
    assert page("x") == page("x")


def test_ids_and_addresses_are_checked() -> None:
    with pytest.raises(ValueError, match="two sections have the id 'a'"):
        render("x", [Section("a", [], id="a"), Section("a", [], id="a")])
    for address in ("javascript:alert(1)", "http://x", "//x", "a b", "/etc", '#"', "../x"):
        with pytest.raises(ValueError, match="neither an id"):
            Cell("x", href=address)
    with pytest.raises(ValueError, match="1 cells under 2 headings in 'T'"):
        Table(("a", "b"), [("x",)], "T")


def test_the_environment_escapes_and_is_strict() -> None:
    made = environment()
    assert made.from_string("{{ x }}").render(x="<\u202e>") == "&lt;\ufffd&gt;"
    with pytest.raises(Exception, match="'nothing' is undefined"):
        made.from_string("{{ nothing }}").render()


X = np.arange(4.0)
CLOUD = np.random.default_rng(0).normal(size=(6, 2))
PANELS = {"p": ([1, 2], [0.5, np.nan]), "q": ([np.nan, 1], [1, 1])}
LINES = {"": [figures.Series("a", X, X, X), figures.Series("b", X, X)]}
AXES = {"x_label": "v", "y_label": "w", "description": "D"}
DRAWN: dict[str, Figure] = {
    "forest": figures.forest("T", ["a", "b"], PANELS, x_label="v", description="D", reference=0),
    "curves": figures.curves("T", LINES, **AXES, x_ticks=[1, 2], log_x=True),
    "scatter": figures.scatter("T", list("abcd"), X + 1, X, half=X, **AXES),
    "points": figures.points("T", {"m": CLOUD}, [0, 0, 1, 1, 2, 2], list("abc"), description="D"),
    "histogram": figures.histogram("T", {"a": X, "b": X + 1}, x_label="v", bins=X, description="D"),
    "matrix": matrix("T", list("abcd"), np.eye(4) * 5 + 1, description="D"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_in_the_pages_colours_and_has_words(name: str) -> None:
    svg = DRAWN[name].svg
    colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg)) - {"none"}
    assert colours
    assert all(colour.startswith("var(--") for colour in colours), colours
    assert not re.search(r"style=|<style|<metadata|font-family|matplotlib|<image", svg)
    assert 'role="img"' in svg
    assert "<title id=" in svg
    assert ">T</title>" in svg
    assert ">D</desc>" in svg
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    assert {one or other for one, other in used} <= set(re.findall(r' id="([^"]+)"', svg))


def test_a_figures_variables_are_the_style_sheets() -> None:
    from uamix_bench.reports.page import TEMPLATES

    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    for colour, variable in drawing.VARIABLES.items():
        assert f"--{variable}: light-dark({colour}, " in style


def test_a_figures_numbers_are_its_table() -> None:
    table: Any = DRAWN["forest"].data
    assert [[cell if isinstance(cell, str) else (cell.text, cell.minor) for cell in row] for row in table.rows] == [
        ["a", ("1.00", "± 0.50"), ("", "")],
        ["b", ("2", ""), ("1.00", "± 1.00")],
    ]


def test_both_sides_of_an_interval_have_the_same_decimals_in_both_forms() -> None:
    shares = [0.7087, 0.9, 1.0, 0.05]
    panels = {"": ([100 * share for share in shares], [0.9] * 4)}
    drawn = figures.forest("B", list("abcd"), panels, x_label="%", description="")
    table = Table(("x", "%>"), [(f"{share:g}", percent(share, 0.0104)) for share in shares])
    page = render("T", [table, drawn])
    seen = re.findall(r"\d+\.(\d+) ± \d+\.(\d+)", page.markdown)
    assert [(len(one), len(other)) for one, other in seen] == [(1, 1)] * 4 + [(2, 2)] * 4
    assert re.findall(r'(\d+\.\d+) <span class="minor">(± \d+\.\d+)<', page.html) == [
        *((f"{100 * share:.1f}", "± 1.0") for share in shares),
        *((f"{100 * share:.2f}", "± 0.90") for share in shares),
    ]


def test_long_names_of_panels_do_not_run_into_each_other() -> None:
    names = [f"uamix-tiny, linear-probe, {share}% of labels" for share in (1, 5, 10, 50)]
    for panels in (names[:1], names):
        titles, more = drawing.panel_titles(panels, len(panels))
        assert [" ".join(title.split("\n")) for title in titles] == panels
        assert max(len(line) for title in titles for line in title.split("\n")) * 8 * len(panels) <= drawing.WIDTH
        assert (more > 0) == (len(panels) > 1)
