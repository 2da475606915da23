//! The published ports of simulated instances, which are real and answer HTTP with a greeting.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::task::AbortOnDropHandle;

use super::NAME;
use crate::providers::ProviderError;

/// Sockets that are open as long as this is.
#[derive(Default)]
pub(super) struct Servers(
    #[expect(dead_code, reason = "held for its end")] Vec<AbortOnDropHandle<()>>,
);

/// Opens a free port of `address` for each that is asked for: those, and what serves them.
pub(super) async fn open(
    ports: &[u16],
    address: IpAddr,
    greeting: &str,
) -> Result<(BTreeMap<u16, u16>, Servers), ProviderError> {
    let mut opened = BTreeMap::new();
    let mut servers = Vec::new();
    for inside in ports {
        let listener = TcpListener::bind((address, 0))
            .await
            .map_err(|error| no_port(&error))?;
        let outside = listener.local_addr().map_err(|error| no_port(&error))?;
        opened.insert(*inside, outside.port());
        let serving = tokio::spawn(serve(listener, greeting.to_owned()));
        servers.push(AbortOnDropHandle::new(serving));
    }
    Ok((opened, Servers(servers)))
}

fn no_port(error: &std::io::Error) -> ProviderError {
    ProviderError::Quota {
        engine: NAME,
        why: format!("no port could be opened: {error}"),
    }
}

async fn serve(listener: TcpListener, greeting: String) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{greeting}",
        greeting.len()
    );
    while let Ok((mut socket, _)) = listener.accept().await {
        let exchange = async {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        };
        // One at a time is enough for a greeting; a silent caller is cut off.
        let _ = tokio::time::timeout(Duration::from_secs(1), exchange).await;
    }
}
