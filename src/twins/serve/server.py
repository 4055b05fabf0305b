"""`serve`: one command that answers HTTP until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator, Sequence

import uvicorn

from twins.errors import ConfigError, TwinsError
from twins.serve.app import create_app
from twins.serve.config import ServeConfig
from twins.serve.dispatcher import Dispatcher
from twins.serve.gate import Gate
from twins.serve.keys import Keys
from twins.serve.log import set_up
from twins.serve.metrics import Metrics
from twins.serve.protocol import guarded_protocol
from twins.serve.queues import Queues
from twins.serve.routes import ROUTERS
from twins.serve.service import Service
from twins.serve.sources import Source

KEEP_ALIVE = 30
"""Time in seconds that an idle connection stays open."""

log = logging.getLogger("twins.serve")


def serve(sources: Sequence[Source], config: ServeConfig) -> None:
    """Answer HTTP until SIGTERM or SIGINT; SIGHUP loads the models' files again.

    Raises:
        TwinsError: a model cannot be loaded, the keys cannot be read, or the address is taken.
    """
    # for workers, whose threads share the cores with decoding and clients: waiting threads that spin, as is OpenMP's
    # default, then hold up those that they wait for
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    set_up(quiet=config.quiet)
    keys = None if config.api_keys is None else Keys(config.api_keys)
    with _listen(config) as listener:
        asyncio.run(_serve(sources, config, keys, listener))


async def _serve(sources: Sequence[Source], config: ServeConfig, keys: Keys | None, listener: socket.socket) -> None:
    metrics = Metrics()
    queues = Queues(config, sources, metrics.batch)
    dispatcher = Dispatcher(config, queues)
    metrics.watch(dispatcher)
    app = create_app(Service(config, queues, lambda: dispatcher.ready), metrics, *ROUTERS)
    server = _Server(
        queues,
        config.grace,
        uvicorn.Config(
            Gate(app, keys, metrics, local=keys is None and not config.open),
            http=guarded_protocol(config.max_connections, config.receive_seconds, config.answer_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=math.ceil(config.grace) + 2,  # `close` ends the requests before
        ),
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop, number)
    loop.add_signal_handler(signal.SIGHUP, dispatcher.reload_all)
    serving = asyncio.create_task(server.serve([listener]))
    log.info("loading %s", ", ".join(source.name for source in sources))
    try:
        starting = asyncio.create_task(dispatcher.start())
        await asyncio.wait((starting, serving), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            address = _announce(listener, dispatcher, quiet=config.quiet)
            if config.open_browser:
                # not awaited: a browser of the terminal returns when it ends
                threading.Thread(target=_open_browser, args=(address,), daemon=True).start()
            await serving
        else:
            starting.cancel()
    except TwinsError:
        server.should_exit = True
        await serving
        raise
    finally:
        await dispatcher.stop()
    if dispatcher.fault is not None:
        raise dispatcher.fault


def _announce(listener: socket.socket, dispatcher: Dispatcher, *, quiet: bool) -> str:
    """Say the address: in the log, and on standard output with a request to copy; return it."""
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    names = list(dispatcher.models)
    log.info("ready at %s with %s", address, ", ".join(names))
    if not quiet:
        query = f"?model={names[0]}" if len(names) > 1 else ""
        print(f"serving {', '.join(names)} at {address}; Ctrl-C stops it. Open it in a browser, or send a request:")
        print(f'curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" "{address}/v1/predict{query}"', flush=True)
    return address


def _open_browser(address: str) -> None:
    """Open the page; a machine without a browser is told the address."""
    host = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    if not webbrowser.open(host):
        log.error("no browser was found; open %s", host)


class _Server(uvicorn.Server):
    """uvicorn's server without its own handling of signals, after which it would end by the signal.

    Args:
        queues: closed when the grace is over.
        grace: time in seconds to finish what was taken.
        config: uvicorn's settings.
    """

    def __init__(self, queues: Queues, grace: float, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.queues, self.grace = queues, grace

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield

    def stop(self, number: signal.Signals) -> None:
        """Take no more requests, finish those that were taken, and end; a second Ctrl-C ends it now."""
        self.force_exit = self.should_exit and number == signal.SIGINT
        if not self.should_exit:
            asyncio.get_running_loop().call_later(self.grace, self.queues.close, "the server is stopping")
        self.should_exit = True
        log.info("stopping")


@contextlib.contextmanager
def _listen(config: ServeConfig) -> Iterator[socket.socket]:
    """Bind the address before models are loaded.

    Raises:
        ConfigError: the address is taken, or not of this machine.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise ConfigError(
                f"the server cannot listen on {config.host}, port {config.port} ({error.strerror or error}); "
                "give another `port` or `host`"
            ) from error
        listener.listen(2048)
        yield listener
