//! One prepared join, and its rows written as the text of the answer.

use std::io::Write as _;

use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use deadpool_postgres::Pool;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Error;

const NEWEST: &str = "SELECT c.id, c.state, c.dpi, c.created_at, a.name, o.email \
    FROM container c JOIN app a ON a.id = c.app_id JOIN account o ON o.id = c.owner_id \
    WHERE c.owner_id = $1 ORDER BY c.id DESC LIMIT 50";

/// The route's handler.
pub async fn containers(State(pool): State<Pool>, Path(owner): Path<String>) -> Response {
    match answer(&pool, &owner).await {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn answer(pool: &Pool, owner: &str) -> Result<Vec<u8>, Error> {
    let owner = Uuid::try_parse(owner)?;
    let client = pool.get().await?;
    let newest = client.prepare_cached(NEWEST).await?;
    let rows = client.query(&newest, &[&owner]).await?;
    drop(client);
    let mut body = Vec::with_capacity(12 * 1024);
    body.extend_from_slice(br#"{"data":{"containers":{"nodes":["#);
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write_container(&mut body, row)?;
    }
    body.extend_from_slice(b"]}}}");
    Ok(body)
}

fn write_container(body: &mut Vec<u8>, row: &Row) -> Result<(), Error> {
    let id: Uuid = row.try_get(0)?;
    let state: &str = row.try_get(1)?;
    let dpi: i16 = row.try_get(2)?;
    let created_at: DateTime<Utc> = row.try_get(3)?;
    write!(body, r#"{{"id":"container_{}","state":""#, id.simple())?;
    body.extend(state.bytes().map(|byte| byte.to_ascii_uppercase()));
    write!(
        body,
        r#"","dpi":{dpi},"createdAt":"{}","app":{{"name":"#,
        created_at.to_rfc3339()
    )?;
    serde_json::to_writer(&mut *body, row.try_get::<_, &str>(4)?)?;
    body.extend_from_slice(br#"},"owner":{"email":"#);
    serde_json::to_writer(&mut *body, row.try_get::<_, &str>(5)?)?;
    body.extend_from_slice(b"}}");
    Ok(())
}
