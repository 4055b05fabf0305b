"""What the routes of all protocols say of their bodies and errors in the OpenAPI description."""

from __future__ import annotations

from typing import Any

IMAGE_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                "required": ["image"],
                "additionalProperties": False,
            }
        },
    },
}
"""The body of a request with images, for the OpenAPI description."""


def json_body(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request with a JSON object, for the OpenAPI description."""
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
            }
        },
    }
    for status, text in {
        400: "Not an image, or wrong fields",
        401: "A key is needed",
        404: "No such model",
        408: "The request came too slowly",
        413: "Too many bytes, pixels or images",
        415: "A content type that is no image",
        422: "The model cannot do this",
        429: "Too many images wait",
        503: "The server starts or stops, or has no worker",
    }.items()
}
"""The errors of a request, for the OpenAPI description."""
