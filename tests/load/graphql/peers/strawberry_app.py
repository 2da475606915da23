"""Strawberry over asyncpg, with a DataLoader for each relation in every request's context."""

import os
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

import asyncpg
import strawberry
from starlette.applications import Starlette
from starlette.routing import Route
from strawberry.asgi import GraphQL
from strawberry.dataloader import DataLoader

pool: asyncpg.Pool


@strawberry.type
class App:
    name: str


@strawberry.type
class User:
    email: str


@strawberry.type
class Container:
    id: strawberry.ID
    state: str
    dpi: int
    created_at: datetime
    app_id: strawberry.Private[UUID]
    owner_id: strawberry.Private[UUID]

    @strawberry.field
    async def app(self, info: strawberry.Info) -> App | None:
        return await info.context["apps"].load(self.app_id)

    @strawberry.field
    async def owner(self, info: strawberry.Info) -> User | None:
        return await info.context["owners"].load(self.owner_id)


@strawberry.type
class Containers:
    nodes: list[Container]


@strawberry.type
class Query:
    @strawberry.field
    async def containers(self, owner: strawberry.ID, first: int) -> Containers:
        rows = await pool.fetch(
            "SELECT id, state, dpi, created_at, app_id, owner_id FROM container"
            " WHERE owner_id = $1 ORDER BY id DESC LIMIT $2",
            owner,
            first,
        )
        return Containers(nodes=[Container(**row) for row in rows])


async def load_apps(ids):
    rows = await pool.fetch("SELECT id, name FROM app WHERE id = ANY($1::uuid[])", ids)
    found = {row["id"]: App(name=row["name"]) for row in rows}
    return [found.get(key) for key in ids]


async def load_owners(ids):
    rows = await pool.fetch("SELECT id, email FROM account WHERE id = ANY($1::uuid[])", ids)
    found = {row["id"]: User(email=row["email"]) for row in rows}
    return [found.get(key) for key in ids]


class Endpoint(GraphQL):
    async def get_context(self, request, response=None):
        return {"apps": DataLoader(load_fn=load_apps), "owners": DataLoader(load_fn=load_owners)}


@asynccontextmanager
async def connected(_):
    global pool
    connections = int(os.environ["CONNECTIONS"])
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=connections) as pool:
        yield


endpoint = Endpoint(strawberry.Schema(Query), graphql_ide=None)
app = Starlette(routes=[Route("/graphql", endpoint)], lifespan=connected)
