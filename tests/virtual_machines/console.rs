//! Consoles over a WebSocket: opened once, by who may, for as long as they may.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::harness::{PATIENCE, Person, World};

pub type Console = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Asks for a console; the path and the token.
pub async fn token(person: &Person, machine: &str, kind: &str) -> (String, String) {
    let open = format!(
        "mutation {{ openConsole(input: {{id: \"{machine}\", kind: {kind}}}) {{ path token expiresAt }} }}"
    );
    let opened = person.ask(&open).await;
    (
        opened.text("/openConsole/path"),
        opened.text("/openConsole/token"),
    )
}

pub async fn enter(address: SocketAddr, (path, token): &(String, String)) -> Console {
    let mut request = format!("ws://{address}{path}")
        .into_client_request()
        .unwrap();
    let protocols = format!("console, {token}").parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocols);
    let (socket, answer) = connect_async(request).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "console");
    socket
}

/// Reads until `text` has been said.
pub async fn hear(console: &mut Console, text: &str) -> String {
    let mut said = String::new();
    let read = async {
        while !said.contains(text) {
            match console.next().await {
                Some(Ok(Message::Binary(bytes))) => said.push_str(&String::from_utf8_lossy(&bytes)),
                Some(Ok(_)) => {}
                other => panic!("{other:?} after {said:?}"),
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE * 3, read).await;
    heard.unwrap_or_else(|_| panic!("no {text:?} in {said:?}"));
    said
}

/// The code a console is closed with.
pub async fn closed(console: &mut Console) -> u16 {
    let end = async {
        loop {
            match console.next().await {
                Some(Ok(Message::Close(frame))) => {
                    return frame.map_or(1005, |frame| frame.code.into());
                }
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.unwrap()
}

#[tokio::test]
async fn a_token_opens_a_console_once() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    let address = world.apps[0].address.unwrap();
    let ticket = token(&ada, &machine, "SERIAL").await;
    assert!(!ticket.0.contains(&ticket.1), "no secret in an address");
    let mut console = enter(address, &ticket).await;
    console
        .send(Message::binary(b"hello\n".to_vec()))
        .await
        .unwrap();
    hear(&mut console, "hello").await;
    // Used, unknown and none.
    for wrong in [ticket.1.as_str(), "nonsense", ""] {
        let mut refused = enter(address, &(ticket.0.clone(), wrong.to_owned())).await;
        assert_eq!(closed(&mut refused).await, 4401, "{wrong:?}");
    }
    // It ends with the login it was asked for in.
    ada.ask("mutation { logOut { ok } }").await.ok("/logOut");
    assert_eq!(closed(&mut console).await, 4403);
    world.stop().await;
}

#[tokio::test]
async fn a_token_has_an_end_and_a_machine_at_rest_has_no_console() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    let address = world.apps[0].address.unwrap();
    let ticket = token(&ada, &machine, "SERIAL").await;
    let expired = "UPDATE console_token SET expires_at = created_at";
    sea_orm::ConnectionTrait::execute_unprepared(world.store().db(), expired)
        .await
        .unwrap();
    let mut refused = enter(address, &ticket).await;
    assert_eq!(closed(&mut refused).await, 4401);
    let ticket = token(&ada, &machine, "SERIAL").await;
    super::stop(&ada, &machine).await;
    let mut refused = enter(address, &ticket).await;
    assert_eq!(closed(&mut refused).await, 4503);
    let open = format!("mutation {{ openConsole(input: {{id: \"{machine}\"}}) {{ token }} }}");
    let reply: Value = ada.ask(&open).await.code().into();
    assert_eq!(reply, "ILLEGAL_STATE");
    world.stop().await;
}

#[tokio::test]
async fn a_console_ends_with_the_server() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    let address = world.apps[0].address.unwrap();
    let ticket = token(&ada, &machine, "SERIAL").await;
    let mut console = enter(address, &ticket).await;
    console
        .send(Message::binary(b"open\n".to_vec()))
        .await
        .unwrap();
    hear(&mut console, "open").await;
    let stopping = tokio::spawn(world.stop());
    assert_eq!(closed(&mut console).await, 1001);
    stopping.await.unwrap();
}
