"""The users that `deploy/redis/users.acl` gives a server, each with the password `pass`."""

from __future__ import annotations

import re
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "deploy" / "redis" / "users.acl"
PASSWORD = "pass"
ADMIN, GATEWAY = "admin", "gateway"
NODE, NODE_USER = "gpu-1", "node-gpu-1"


def with_passwords() -> str:
    """The file, as an operator completes it."""
    return re.sub(r"^(user \S+ on) ", rf"\1 >{PASSWORD} ", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def shipped() -> dict[str, list[str]]:
    """Each user's rules as ACL SETUSER takes them: a selector, with its spaces, is one."""
    users = (line.split(" ", 2)[1:] for line in FILE.read_text(encoding="utf-8").splitlines())
    return {name: re.findall(r"\([^)]*\)|\S+", rest) for name, rest in users}
