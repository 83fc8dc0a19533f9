"""Recommendations over HTTP, and a page to look at them: `python -m ekpnet_fast.serve RUN`."""

from __future__ import annotations

import argparse
import gc
import ipaddress
import socket
import sys
from collections.abc import Callable, Sequence

from ekpnet_fast.errors import ConfigError
from ekpnet_fast.native.cpus import MOST_THREADS, choose_threads, usable_cpus
from ekpnet_fast.recommender.command import add_candidates, add_run
from ekpnet_fast.terminal import guarded, say

MISSING = "the server needs FastAPI and uvicorn ({}): pip install 'ekpnet_fast[serve]'"


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; exit code 2 for an error that the user can mend."""
    options = _parser().parse_args(arguments)
    with _bound(options.host, options.port) as listener:
        _serve(options, listener)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ekpnet_fast.serve",
        description="Serve recommendations over HTTP, with a web page.",
    )
    add_run(parser)
    add_candidates(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (this machine alone)")
    parser.add_argument(
        "--port", type=_whole(0, 65535), default=8000, help="0 takes a free one and prints it"
    )
    parser.add_argument(
        "--threads",
        type=_whole(1, MOST_THREADS),
        help="requests that compute at a time (as many as the process may use CPUs)",
    )
    parser.add_argument(
        "--queue", type=_whole(0, 65536), default=64, help="requests that may wait for a thread"
    )
    parser.add_argument(
        "--timeout", type=_whole(1, 86400), default=30, help="seconds that a request may take"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the server may be called by, besides its addresses and localhost",
    )
    parser.add_argument(
        "--allow-changes",
        action="store_true",
        help="let whoever can ask also add and remove triples, add items and clicks, and refresh",
    )
    return parser


def _whole(low: int, high: int) -> Callable[[str], int]:
    """Type for argparse: a whole number in a range."""

    def parse(text: str) -> int:
        if not (text.isdecimal() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {low} to {high}")
        return int(text)

    return parse


def _bound(host: str, port: int) -> socket.socket:
    """Bind a socket to its port, without listening yet.

    Raises:
        ConfigError: no such address here, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot be bound ({error.strerror or error}), expected an"
            " address of this machine and a free port"
        ) from error
    return listener


def _serve(options: argparse.Namespace, listener: socket.socket) -> None:
    try:
        from ekpnet_fast.serve.app import Limits, create_app
        from ekpnet_fast.serve.server import Server
    except ImportError as error:
        raise ConfigError(MISSING.format(error)) from error
    from ekpnet_fast.serve.engine import RecommenderEngine

    engine = RecommenderEngine.load(
        options.run, options.data_root, options.device, options.candidates
    )
    # What was made so far stays until the end. Looking through it for garbage again and again would
    # stop every thread meanwhile, the longer the larger the catalogue.
    gc.collect()
    gc.freeze()
    # OMP_NUM_THREADS is for the threads of one computation; these are computations at a time.
    threads = usable_cpus() if options.threads is None else choose_threads(options.threads)
    hosts = frozenset(name.lower() for name in [options.host, *options.allow_host])
    limits = Limits(threads=threads.count, queue=options.queue, timeout=options.timeout)
    host, port = listener.getsockname()[:2]

    changing = engine if options.allow_changes else None
    changed = ", and change all that is served" if options.allow_changes else ""

    def ready() -> None:
        shown = f"[{host}]" if ":" in host else host
        facts = engine.facts()
        say(f"{facts.model} on {facts.dataset}, {threads}: http://{shown}:{port}")
        if not ipaddress.ip_address(host).is_loopback:
            print(
                f"warning: bound to {host}: whoever reaches this machine can ask, and learn what"
                f" users clicked{changed}; there is no authentication",
                file=sys.stderr,
            )
        sys.stdout.flush()

    Server(create_app(engine, limits, hosts, changing), ready).serve_on(listener)
    lost = f"; changes since the start that were not saved: {engine.changes:,}"
    print(f"stopped{lost if engine.changes else ''}")


if __name__ == "__main__":
    sys.exit(main())
