//! A TCP balancer as there are many: it asks every server for readiness, sends new connections to those that are ready in
//! turn, and tries another when one refuses. What is open stays where it is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::nap;

/// Between two questions to one server.
const LOOKS_MILLIS: u64 = 250;
/// A server that takes longer to say that it is ready is not.
const PATIENT: Duration = Duration::from_secs(1);

struct Server {
    address: SocketAddr,
    is_ready: AtomicBool,
}

/// It stops when it is dropped, and its connections with it.
pub struct Balancer {
    pub address: SocketAddr,
    servers: Arc<[Server]>,
    _running: Vec<AbortOnDropHandle<()>>,
}

impl Balancer {
    /// Stands before these servers, none of which has to be there yet.
    pub async fn before(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let servers: Arc<[Server]> = addresses
            .into_iter()
            .map(|address| Server {
                address,
                is_ready: AtomicBool::new(false),
            })
            .collect();
        let looking = (0..servers.len()).map(|number| {
            let servers = Arc::clone(&servers);
            tokio::spawn(async move {
                let server = &servers[number];
                loop {
                    let answer = tokio::time::timeout(PATIENT, says_ready(server.address)).await;
                    let is_ready = matches!(answer, Ok(Ok(true)));
                    server.is_ready.store(is_ready, Ordering::Relaxed);
                    nap(LOOKS_MILLIS).await;
                }
            })
        });
        let mut running: Vec<_> = looking.map(AbortOnDropHandle::new).collect();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&servers)));
        running.push(AbortOnDropHandle::new(accepting));
        Self {
            address,
            servers,
            _running: running,
        }
    }

    /// How many servers get connections now.
    pub fn ready(&self) -> usize {
        let is_ready = |server: &&Server| server.is_ready.load(Ordering::Relaxed);
        self.servers.iter().filter(is_ready).count()
    }
}

async fn says_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /readyz HTTP/1.0\r\nhost: balancer\r\n\r\n")
        .await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head[9..] == b"200")
}

async fn accept(listener: TcpListener, servers: Arc<[Server]>) {
    let (turn, mut connections) = (AtomicUsize::new(0), JoinSet::new());
    loop {
        tokio::select! {
            client = listener.accept() => {
                let (client, _) = client.unwrap();
                let (first, servers) = (turn.fetch_add(1, Ordering::Relaxed), Arc::clone(&servers));
                connections.spawn(carry(client, servers, first));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection's bytes to the first server, from `first` on, that is ready and takes it.
async fn carry(mut client: TcpStream, servers: Arc<[Server]>, first: usize) {
    for number in 0..servers.len() {
        let server = &servers[(first + number) % servers.len()];
        if !server.is_ready.load(Ordering::Relaxed) {
            continue;
        }
        if let Ok(mut there) = TcpStream::connect(server.address).await {
            let _ = (client.set_nodelay(true), there.set_nodelay(true));
            if copy_bidirectional(&mut client, &mut there).await.is_err() {
                // Dropped with this, it is reset instead of closed: the client sees an error, not an end.
                let _ = client.set_zero_linger();
            }
            return;
        }
    }
    let _ = client.set_zero_linger();
}
