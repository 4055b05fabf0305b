"""The numbers that the server gives to Prometheus at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from twins.serve.dispatcher import Dispatcher
from twins.serve.queues import Queues

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "twins_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "twins_request_seconds", "Time of a request.", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "twins_batch_images", "Images in a batch.", ["model"], buckets=SIZES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "twins_batch_seconds", "Time of a batch.", ["model"], buckets=SECONDS, registry=self.registry
        )
        self.waiting = Gauge("twins_queue_images", "Images that wait.", ["model"], registry=self.registry)
        self.version = Gauge("twins_model_version", "Version of a model in use.", ["model"], registry=self.registry)
        self.workers = Gauge("twins_workers", "Workers that can answer.", registry=self.registry)
        self.restarts = Gauge("twins_worker_restarts", "Workers that were replaced.", registry=self.registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)

    def batch(self, model: str, images: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.labels(model).observe(images)
        self.batch_seconds.labels(model).observe(seconds)

    def watch(self, dispatcher: Dispatcher) -> None:
        """Count the workers of a dispatcher."""
        self.workers.set_function(lambda: dispatcher.live_workers)
        self.restarts.set_function(lambda: dispatcher.restarts)

    def text(self, queues: Queues) -> bytes:
        """Return all numbers in Prometheus' text form."""
        for name, served in queues.models.items():
            self.waiting.labels(name).set(len(served.queue))
            self.version.labels(name).set(served.version)
        return generate_latest(self.registry)
