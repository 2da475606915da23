//! What sockets cost at the least: it writes each line of its standard input to all of them, and knows no GraphQL.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::server::{Request, Response},
        protocol::WebSocketConfig,
    },
};

type Sinks = Arc<Mutex<Vec<SplitSink<WebSocketStream<TcpStream>, Message>>>>;

pub async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("endpoint http://{}/", listener.local_addr().unwrap());
    let sinks = Sinks::default();
    tokio::spawn(accept(listener, Arc::clone(&sinks)));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut open = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await {
        let text = Utf8Bytes::from(line);
        open.append(&mut sinks.lock().unwrap());
        for sink in &mut open {
            let _ = sink.send(Message::Text(text.clone())).await;
        }
    }
}

async fn accept(listener: TcpListener, sinks: Sinks) {
    while let Ok((stream, _)) = listener.accept().await {
        let sinks = Arc::clone(&sinks);
        tokio::spawn(async move {
            stream.set_nodelay(true).unwrap();
            let config = WebSocketConfig::default()
                .read_buffer_size(2048)
                .write_buffer_size(0);
            #[expect(clippy::result_large_err, reason = "the library's signature")]
            let agree = |_: &Request, mut answer: Response| {
                let protocol = "graphql-transport-ws".parse().unwrap();
                answer
                    .headers_mut()
                    .insert("sec-websocket-protocol", protocol);
                Ok(answer)
            };
            let socket = accept_hdr_async_with_config(stream, agree, Some(config)).await;
            let (mut sink, mut source) = socket.unwrap().split();
            // So much of the protocol that the same clients can talk to it.
            let ack = Message::text(r#"{"type":"connection_ack"}"#);
            let first = Message::text(r#"{"type":"next","id":"0","payload":{}}"#);
            for answer in [ack, first] {
                source.next().await.unwrap().unwrap();
                sink.send(answer).await.unwrap();
            }
            sinks.lock().unwrap().push(sink);
            while let Some(Ok(_)) = source.next().await {}
        });
    }
}
