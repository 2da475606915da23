//! Serves a user's newest containers twice: `/containers/{owner}` by hand, `/loaders` as the tutorials of async-graphql do.

mod by_hand;
mod loaders;

use std::env;

use axum::{Router, routing};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let database = env::var("DATABASE_URL")?.parse()?;
    let pool = Pool::builder(Manager::new(database, NoTls))
        .max_size(env::var("CONNECTIONS")?.parse()?)
        .build()?;
    let router = Router::new()
        .route("/containers/{owner}", routing::get(by_hand::containers))
        .with_state(pool.clone())
        .route("/loaders", routing::post(loaders::execute))
        .with_state(loaders::schema(pool));
    let listener =
        tokio::net::TcpListener::bind(format!("127.0.0.1:{}", env::var("PORT")?)).await?;
    axum::serve(listener, router).await?;
    Ok(())
}
