"""`streamer gateway`: a process that serves those who watch."""

from __future__ import annotations

import asyncio

import click

from streamer.fanout.hub import HubSettings
from streamer.gateway.access import Access
from streamer.gateway.settings import MOST_LINGER_MS, GatewaySettings
from streamer.gateway.tls import TlsSettings, server_context
from streamer.gateway.tokens import TokenSettings
from streamer.log.keys import Keys
from workers.event_loops import loop_factory
from workers.gateway.serving import serve, stopping_signals
from workers.gateway.supervisor import supervise
from workers.logs import configure_logs
from workers.options import DEFAULT_PORT, Seconds, option, redis_options, token_claims, token_secret_file

_HUB = HubSettings()


@click.command(short_help="Serve those who watch: WebSockets, the HTTP API and the web page.")
@redis_options
@option("--host", default=GatewaySettings.host, help="The address to listen on; 0.0.0.0 for all.")
@option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, help="The port to listen on; 0 for a free one.")
@option("--internal-port", type=click.IntRange(0, 65535), help="A port for /healthz, /readyz and /metrics.")
@option("--processes", type=click.IntRange(1), default=1, help="Processes that serve the port together.")
@option(
    "--notice-s",
    type=Seconds(),
    default=GatewaySettings.notice_s,
    help="Seconds for which SIGTERM only fails /readyz, and new clients are still served.",
)
@option("--drain-s", type=Seconds(), default=GatewaySettings.drain_s, help="Seconds over which SIGTERM closes clients.")
@option(
    "--ping-s", type=Seconds(more_than_0=True), default=GatewaySettings.ping_s, help="Seconds between keep-alive pings."
)
@option("--keep-s", type=Seconds(), default=_HUB.keep_s, help="Seconds that a topic is kept without a watcher.")
@option(
    "--check-s", type=Seconds(more_than_0=True), default=_HUB.check_s, help="Seconds between looks for lost deliveries."
)
@option("--memory-bytes", type=int, default=_HUB.memory_bytes, help="Bytes of history kept in memory.")
@option(
    "--stall-s",
    type=Seconds(more_than_0=True),
    default=_HUB.stall_s,
    help="Seconds that a client may take nothing before it is closed.",
)
@option(
    "--linger-ms",
    type=click.FloatRange(0, MOST_LINGER_MS),
    default=GatewaySettings.linger_ms,
    help="Milliseconds to collect updates before they are written together.",
)
@option("--compress", is_flag=True, help="Compress what clients that can read it are sent.")
@option(
    "--max-topics",
    type=click.IntRange(1),
    default=GatewaySettings.max_topics,
    help="Topics that a client of v1 may have at the same time.",
)
@option(
    "--max-message-bytes",
    type=click.IntRange(1),
    default=GatewaySettings.max_message_bytes,
    help="Bytes that a message of such a client may have.",
)
@option(
    "--max-messages-s",
    type=click.FloatRange(0, min_open=True),
    default=GatewaySettings.max_messages_s,
    help="Messages that such a client may send a second.",
)
@token_secret_file
@option("--token-key-file", metavar="FILE", help="A public key (PEM) that tokens may be signed for.")
@option("--token-jwks-file", metavar="FILE", help="A JWK Set with public keys that tokens may be signed for.")
@token_claims
@option(
    "--token-leeway-s",
    type=Seconds(),
    default=TokenSettings.leeway_s,
    help="Seconds by which the clocks of who makes tokens and this one may differ.",
)
@option("--token-in-query", is_flag=True, help="Take tokens also as ?token=…, which others may write into logs.")
@option("--insecure", is_flag=True, help="Let everybody see everything also where others can reach the port.")
@option("--tls-cert", metavar="FILE", help="Serve TLS: a certificate and those up to its authority (PEM).")
@option("--tls-key", metavar="FILE", help="The certificate's key (PEM, not encrypted).")
@option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="What to log.")
def gateway(
    redis_url: str,
    prefix: str,
    host: str,
    port: int,
    internal_port: int | None,
    processes: int,
    notice_s: float,
    drain_s: float,
    ping_s: float,
    keep_s: float,
    check_s: float,
    linger_ms: float,
    compress: bool,
    memory_bytes: int,
    stall_s: float,
    max_topics: int,
    max_message_bytes: int,
    max_messages_s: float,
    token_secret_file: str | None,
    token_key_file: str | None,
    token_jwks_file: str | None,
    token_issuer: str | None,
    token_audience: str | None,
    token_leeway_s: float,
    token_in_query: bool,
    insecure: bool,
    tls_cert: str | None,
    tls_key: str | None,
    log_level: str,
) -> None:
    """Serve those who watch: WebSockets, the HTTP API and the web page.

    \b
    ws://HOST:PORT/nodes/NODE                 every update of a node: what is kept, then live
    ws://HOST:PORT/nodes/NODE/jobs/JOB        those of a job
      ?after=CURSOR                           resume behind an update (its `cursor`, or its `index`)
      ?history=all|none|N                     how much comes first
    ws://HOST:PORT/ws                         many topics on one connection: see PROTOCOL.md
    http://HOST:PORT/                         the page
    http://HOST:PORT/api/nodes                the fleet, as JSON

    Any number of gateways may serve the same Redis. SIGTERM drains: /readyz fails, after --notice-s nobody new is
    accepted, and over --drain-s clients are closed bit by bit and resume elsewhere. Ctrl-C ends at once, and so does a
    second signal.

    Whoever can reach the port may see everything, until one of the --token-…-file options is given: then each request
    takes a token, which `streamer token` makes. On an address beyond this machine it is one of these or --insecure.
    Files with keys, and the certificate, are read again when they change.

    With --processes, so many processes share the port, each with a memory of its own; one that dies is started again.
    The internal port answers for them all.
    """
    hub = HubSettings(keep_s=keep_s, check_s=check_s, memory_bytes=memory_bytes, stall_s=stall_s)
    settings = GatewaySettings(
        redis_url,
        Keys(prefix),
        host,
        port,
        internal_port,
        notice_s,
        drain_s,
        ping_s,
        linger_ms,
        compress,
        hub,
        max_topics=max_topics,
        max_message_bytes=max_message_bytes,
        max_messages_s=max_messages_s,
        tokens=TokenSettings(
            secret_file=token_secret_file,
            key_file=token_key_file,
            jwks_file=token_jwks_file,
            issuer=token_issuer,
            audience=token_audience,
            leeway_s=token_leeway_s,
            in_query=token_in_query,
        ),
        insecure=insecure,
        tls=TlsSettings(tls_cert, tls_key),
    )
    # What is wrong with a file is said once, and here, also where several processes are to read it.
    Access(settings.tokens)
    server_context(settings.tls)
    if processes > 1:
        configure_logs(log_level, "supervisor")
        supervise(settings, processes, log_level)
    else:
        configure_logs(log_level)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve_alone(settings))


async def _serve_alone(settings: GatewaySettings) -> None:
    await serve(settings, stopping_signals())
