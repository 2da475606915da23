"""What is measured: how each server is started, and how it is asked for a user's newest containers."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from world import ROWS

WORKERS = 2
# Of one server, whatever number of processes share them.
CONNECTIONS = 10
FIELDS = "id state dpi createdAt app { name } owner { email }"
OURS = f"query Newest {{ containers(first: {ROWS}) {{ nodes {{ {FIELDS} }} }} }}"
PEERS = f"query Newest($owner: ID!) {{ containers(owner: $owner, first: {ROWS}) {{ nodes {{ {FIELDS} }} }} }}"
POSTGRAPHILE = f"""query Newest($owner: UUID!) {{
  containers: allContainers(condition: {{ownerId: $owner}}, orderBy: ROW_ID_DESC, first: {ROWS}) {{
    nodes {{ id: rowId state dpi createdAt app: appByAppId {{ name }} owner: accountByOwnerId {{ email }} }}
  }}
}}"""

here = Path(__file__).parent
cache = Path(os.environ.get("PEERS", "."))
servers = cache / "servers"


@dataclass(frozen=True)
class Target:
    name: str
    label: str
    command: list
    """What is run, with `{port}` where the port goes; it is in the environment as PORT, too."""
    request: Callable
    """Method, path, body and authorization of a user's request."""
    settings: dict
    is_peer: bool = True


def posted(path, query):
    """Asks with the owner as a variable."""
    return lambda user: ("POST", path, {"query": query, "variables": {"owner": dashed(user)}}, None)


def dashed(user):
    return "-".join(user.id[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def raw(request, port):
    """A request as the bytes of HTTP."""
    method, path, body, authorization = request
    head = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Accept: application/json"]
    if authorization:
        head.append(f"Authorization: {authorization}")
    text = ""
    if body is not None:
        text = json.dumps(body)
        head += ["Content-Type: application/json", f"Content-Length: {len(text)}"]
    return "\r\n".join([*head, "", text])


def version(package):
    """The installed version of a package of Node.js or Python."""
    manifest = servers / "node_modules" / package / "package.json"
    if manifest.exists():
        return json.loads(manifest.read_text())["version"]
    for line in (here / "peers/requirements.txt").read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.partition("==")[2]
    raise LookupError(package)


def ours():
    return Target(
        name="ours",
        label="main-webserver",
        command=[os.environ["BINARY"], "serve"],
        request=lambda user: ("POST", "/graphql", {"query": OURS}, f"Bearer {user.token}"),
        # All else is as it comes. The engine is named so that a machine's Docker is left alone.
        settings={
            "SECRET_KEY": "a key for the benchmark, not for anything else",
            "ACCESS_TOKEN_SECONDS": "86400",
            "PROVIDER": "simulated",
            "DATABASE_CONNECTIONS": str(CONNECTIONS),
            "TOKIO_WORKER_THREADS": str(WORKERS),
        },
        is_peer=False,
    )


def by_hand():
    command = [os.environ["BY_HAND"]]
    settings = {"CONNECTIONS": str(CONNECTIONS), "TOKIO_WORKER_THREADS": str(WORKERS)}
    return [
        Target(
            name="by-hand",
            label="axum, tokio-postgres, by hand",
            command=command,
            request=lambda user: ("GET", f"/containers/{dashed(user)}", None, None),
            settings=settings,
            is_peer=False,
        ),
        Target(
            name="loaders",
            label="async-graphql 7.0.19, DataLoader",
            command=command,
            request=posted("/loaders", PEERS),
            settings=settings,
            is_peer=False,
        ),
    ]


def peers():
    settings = {
        "CONNECTIONS": str(CONNECTIONS // WORKERS),
        "WORKERS": str(WORKERS),
        "NODE_ENV": "production",
        "GRAPHILE_ENV": "production",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    python = [str(cache / "venv/bin/python"), "-m"]
    return [
        Target(
            name="postgraphile",
            label=f"PostGraphile {version('postgraphile')}",
            command=[str(cache / "node"), str(servers / "postgraphile.mjs")],
            request=posted("/graphql", POSTGRAPHILE),
            settings=settings,
        ),
        Target(
            name="yoga",
            label=f"GraphQL Yoga {version('graphql-yoga')}, pg, DataLoader",
            command=[str(cache / "node"), str(servers / "yoga.mjs")],
            request=posted("/graphql", PEERS),
            settings=settings,
        ),
        Target(
            name="flask",
            label=f"Flask {version('flask')}, SQLAlchemy, gunicorn",
            command=[*python, "gunicorn", "--chdir", str(servers), "--workers", str(WORKERS)]
            + ["--bind", "127.0.0.1:{port}", "flask_app:app"],
            request=lambda user: ("GET", f"/users/{dashed(user)}/containers", None, None),
            settings=settings,
        ),
        Target(
            name="strawberry",
            label=f"Strawberry {version('strawberry-graphql')}, asyncpg, uvicorn",
            command=[*python, "uvicorn", "--app-dir", str(servers), "--workers", str(WORKERS)]
            + ["--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "strawberry_app:app"],
            request=posted("/graphql", PEERS),
            settings=settings,
        ),
    ]
