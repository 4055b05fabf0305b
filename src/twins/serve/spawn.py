"""The start of a worker process; the server itself does not import what a worker needs, torch above all."""

from __future__ import annotations

import socket

from twins.serve.messages import WorkerSettings


def run_worker(connection: socket.socket, settings: WorkerSettings) -> None:
    """Be a worker process."""
    from twins.serve.worker import main

    main(connection, settings)
