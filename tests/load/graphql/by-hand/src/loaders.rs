//! async-graphql with a DataLoader for each relation, without access policy, limits or telemetry.

use std::{collections::HashMap, sync::Arc};

use async_graphql::{
    ComplexObject, Context, EmptyMutation, EmptySubscription, ID, Object, Result, Schema,
    SimpleObject,
    dataloader::{DataLoader, Loader},
};
use async_graphql_axum::{GraphQLRequest, GraphQLResponse};
use axum::extract::State;
use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use uuid::Uuid;

use crate::Error;

type Api = Schema<Query, EmptyMutation, EmptySubscription>;

/// The schema, its loaders beside it.
pub fn schema(pool: Pool) -> Api {
    Schema::build(Query, EmptyMutation, EmptySubscription)
        .data(DataLoader::new(Apps(pool.clone()), tokio::spawn))
        .data(DataLoader::new(Owners(pool.clone()), tokio::spawn))
        .data(pool)
        .finish()
}

/// The route's handler.
pub async fn execute(State(schema): State<Api>, request: GraphQLRequest) -> GraphQLResponse {
    schema.execute(request.into_inner()).await.into()
}

pub struct Query;

#[Object]
impl Query {
    async fn containers(&self, ctx: &Context<'_>, owner: ID, first: i64) -> Result<Containers> {
        let owner = Uuid::try_parse(&owner)?;
        let client = ctx.data_unchecked::<Pool>().get().await?;
        let newest = client
            .prepare_cached(
                "SELECT id, state, dpi, created_at, app_id, owner_id FROM container \
                 WHERE owner_id = $1 ORDER BY id DESC LIMIT $2",
            )
            .await?;
        let rows = client.query(&newest, &[&owner, &first]).await?;
        let nodes = rows
            .iter()
            .map(|row| Container {
                id: row.get::<_, Uuid>(0).to_string().into(),
                state: row.get(1),
                dpi: row.get(2),
                created_at: row.get(3),
                app_id: row.get(4),
                owner_id: row.get(5),
            })
            .collect();
        Ok(Containers { nodes })
    }
}

#[derive(SimpleObject)]
struct Containers {
    nodes: Vec<Container>,
}

#[derive(SimpleObject)]
#[graphql(complex)]
struct Container {
    id: ID,
    state: String,
    dpi: i16,
    created_at: DateTime<Utc>,
    #[graphql(skip)]
    app_id: Uuid,
    #[graphql(skip)]
    owner_id: Uuid,
}

#[ComplexObject]
impl Container {
    async fn app(&self, ctx: &Context<'_>) -> Result<Option<App>> {
        let apps = ctx.data_unchecked::<DataLoader<Apps>>();
        Ok(apps.load_one(self.app_id).await?)
    }

    async fn owner(&self, ctx: &Context<'_>) -> Result<Option<User>> {
        let owners = ctx.data_unchecked::<DataLoader<Owners>>();
        Ok(owners.load_one(self.owner_id).await?)
    }
}

#[derive(SimpleObject, Clone)]
struct App {
    name: String,
}

#[derive(SimpleObject, Clone)]
struct User {
    email: String,
}

struct Apps(Pool);

impl Loader<Uuid> for Apps {
    type Value = App;
    type Error = Arc<Error>;

    async fn load(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, App>, Arc<Error>> {
        let found = texts(&self.0, "SELECT id, name FROM app WHERE id = ANY($1)", ids).await?;
        Ok(found.map(|(id, name)| (id, App { name })).collect())
    }
}

struct Owners(Pool);

impl Loader<Uuid> for Owners {
    type Value = User;
    type Error = Arc<Error>;

    async fn load(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, User>, Arc<Error>> {
        let sql = "SELECT id, email FROM account WHERE id = ANY($1)";
        let found = texts(&self.0, sql, ids).await?;
        Ok(found.map(|(id, email)| (id, User { email })).collect())
    }
}

/// Each id that is there with its text.
async fn texts(
    pool: &Pool,
    sql: &str,
    ids: &[Uuid],
) -> Result<impl Iterator<Item = (Uuid, String)> + use<>, Arc<Error>> {
    let rows = async {
        let client = pool.get().await?;
        let statement = client.prepare_cached(sql).await?;
        Ok::<_, Error>(client.query(&statement, &[&ids]).await?)
    };
    let rows = rows.await.map_err(Arc::new)?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))))
}
