"""The server's pages: the one to try a model, whose files are in `page/`, and all routes as OpenAPI describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types of the page's files by their endings."""
ALONE = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
CSP = f"default-src 'none'; style-src 'unsafe-inline'; {ALONE}"
"""Content security policy of the list of routes, which has no scripts."""
PAGE_CSP = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; {ALONE}"
"""Content security policy of the page: its own files and this server alone, and nothing inline."""
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}
:root{color-scheme:light dark}
pre,table{overflow-x:auto}pre{white-space:pre-wrap;padding:.6rem;background:#8882}
table{border-collapse:collapse;margin:.5rem 0}
td,th{text-align:left;vertical-align:top;padding:.15rem 1.2rem .15rem 0}h2{margin-top:2rem;font-size:1.1rem}
code{overflow-wrap:anywhere}.m{display:inline-block;min-width:3.5rem;font-weight:700}"""


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{body}\n</html>\n"
    )


@cache
def page_files() -> Mapping[str, tuple[bytes, str]]:
    """Return the content and the content type of each file of the page, by name."""
    return {
        file.name: (file.read_bytes(), KINDS[file.suffix]) for file in sorted(FOLDER.iterdir()) if file.suffix in KINDS
    }


def routes_page(description: dict[str, Any]) -> str:
    """Return a page with all routes of an OpenAPI description."""
    routes = [
        _route(method, path, values)
        for path, methods in description["paths"].items()
        for method, values in methods.items()
    ]
    title = f"{description['info']['title']} {description['info']['version']}: routes"
    return _page(title, f"<h1>{escape(title)}</h1>\n" + "\n".join(routes) + LINKS)


LINKS = """
<p>Also: <a href="openapi.json">the OpenAPI description</a>, <a href="v1/models">the models</a>,
<a href="health/ready">whether they are ready</a>, <a href="metrics">numbers for Prometheus</a>, and
<a href="./">the page</a> to try a model.</p>"""


def _route(method: str, path: str, values: dict[str, Any]) -> str:
    head = f'<h2><span class="m">{escape(method.upper())}</span> <code>{escape(path)}</code></h2>'
    text = f"<p>{escape(values.get('description', ''))}</p>"
    fields = [
        (field["name"], field["in"], _kind(field["schema"]), field.get("description", ""))
        for field in values.get("parameters", [])
    ]
    body = values.get("requestBody", {}).get("content", {})
    fields += [("body", kind, "", "") for kind in body]
    answers = [(status, answer["description"]) for status, answer in values["responses"].items()]
    return "\n".join([head, text, *_table(fields), *_table(answers)])


def _kind(schema: dict[str, Any]) -> str:
    choices = [_kind(one) for one in schema.get("anyOf", []) if one.get("type") != "null"]
    return " or ".join(choices) or ", ".join(map(str, schema.get("enum", []))) or str(schema.get("type", ""))


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
        yield "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
