"""The server's pages: an index, and all routes from the OpenAPI description; plain HTML without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""Content security policy of the pages."""
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


def index_page(address: str) -> str:
    """Return the index of a server, with a request to its address to copy."""
    return _page("twins", INDEX.replace("ADDRESS", escape(address)))


INDEX = """<h1>twins serve</h1>
<p>This server predicts images:</p>
<pre>curl --data-binary @image.jpg -H "Content-Type: image/jpeg" ADDRESS/v1/predict</pre>
<ul>
<li><a href="/v1/models">/v1/models</a>: the models</li>
<li><a href="/docs">/docs</a>: all routes, also as <a href="/openapi.json">OpenAPI</a></li>
<li><a href="/health/ready">/health/ready</a>: whether it can answer</li>
<li><a href="/metrics">/metrics</a>: numbers for Prometheus</li>
</ul>"""


def routes_page(description: dict[str, Any]) -> str:
    """Return a page with all routes of an OpenAPI description."""
    routes = [
        _route(method, path, values)
        for path, methods in description["paths"].items()
        for method, values in methods.items()
    ]
    title = f"{description['info']['title']} {description['info']['version']}: routes"
    return _page(title, f"<h1>{escape(title)}</h1>\n" + "\n".join(routes))


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
