"""The protocols of other programs that a server answers, besides its own."""

from __future__ import annotations

from twins.serve import hugging_face, kserve, label_studio

ROUTERS = (kserve.router, hugging_face.router, label_studio.router)
