"""Flask over SQLAlchemy's ORM: the same data as a REST resource."""

import os
from datetime import datetime
from uuid import UUID

from flask import Flask, jsonify
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg://"),
    pool_size=int(os.environ["CONNECTIONS"]),
    max_overflow=0,
)
app = Flask(__name__)


class Base(DeclarativeBase):
    pass


class App(Base):
    __tablename__ = "app"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]


class Account(Base):
    __tablename__ = "account"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]


class Container(Base):
    __tablename__ = "container"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("account.id"))
    app_id: Mapped[UUID] = mapped_column(ForeignKey("app.id"))
    state: Mapped[str]
    dpi: Mapped[int]
    created_at: Mapped[datetime]
    app: Mapped[App] = relationship()
    owner: Mapped[Account] = relationship()


def shown(container):
    return {
        "id": str(container.id),
        "state": container.state,
        "dpi": container.dpi,
        "createdAt": container.created_at.isoformat(),
        "app": {"name": container.app.name},
        "owner": {"email": container.owner.email},
    }


@app.get("/users/<uuid:owner>/containers")
def containers(owner):
    newest = (
        select(Container)
        .where(Container.owner_id == owner)
        .options(joinedload(Container.app), joinedload(Container.owner))
        .order_by(Container.id.desc())
        .limit(50)
    )
    with Session(engine) as session:
        return jsonify(nodes=[shown(container) for container in session.scalars(newest)])
