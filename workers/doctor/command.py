"""`streamer doctor`: checks a Redis against what the promises need."""

from __future__ import annotations

import sys

import click

from streamer.core.names import check_node
from streamer.log.url import without_password
from workers.doctor.allowing import Asked
from workers.doctor.examining import examine
from workers.doctor.findings import fails
from workers.doctor.gathering import gather
from workers.doctor.rights import ROLES
from workers.doctor.showing import show
from workers.options import option, redis_options

FAILED = 1


@click.command(short_help="Check a Redis against what the promises of the streamer need.")
@option("--strict", is_flag=True, help="Let the exit status be 1 for warnings, too.")
@option("--json", is_flag=True, help="Print one JSON object.")
@option("--role", type=click.Choice(list(ROLES)), default="both", help="Whose rights are looked at.")
@option("--node", help="With --role node: the rights to this node's keys, as of a user of its own.")
@option("--user", help="This user's rights, asked for by one who may run ACL DRYRUN.")
@redis_options
def doctor(
    redis_url: str, prefix: str, strict: bool, json: bool, role: str, node: str | None, user: str | None
) -> None:
    """Check a Redis or Valkey against what is promised to nodes and watchers.

    \b
      streamer doctor --redis-url redis://streamer@valkey.example.com:6379/0
      streamer doctor --json --strict | jq -r '.findings[] | select(.level == "problem") | .remedy'

    Looks at version, role, memory and eviction, persistence, limits of connections, replicas, Sentinels, a cluster's
    slots, the clock, and the rights of the user that the URL names: run it as the user of your nodes and gateways.
    Appends to a throw-away node, listens and reads, and measures how long that takes. Each finding names the promise
    at risk and what to do. What the server does not tell, such as CONFIG where it is managed, is a note.

    Where nodes and gateways have users of their own, as of deploy/redis/users.acl, ask for each one's rights. Nothing
    is appended then, and the server is asked, by ACL DRYRUN:

    \b
      streamer doctor --redis-url redis://admin@… --role gateway --user gateway
      streamer doctor --redis-url redis://admin@… --role node --node gpu-1 --user node-gpu-1

    It takes some seconds, is harmless in production, and leaves nothing behind in Redis.

    The exit status is 0, or 1 where there is a problem (with --strict also for a warning) or Redis cannot be reached.
    """
    if node is not None and role != "node":
        raise click.UsageError("--node goes with --role node")
    findings = examine(gather(redis_url, prefix, Asked(role, node if node is None else check_node(node), user)))
    show(without_password(redis_url), findings, json)
    if fails(findings, strict=strict):
        sys.exit(FAILED)
