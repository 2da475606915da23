//! A TCP proxy that stands for the network between a process and a server: it can be cut, held up and made slow.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::harness::nap;

/// What the network is like now.
#[derive(Clone, Copy)]
struct Weather {
    is_up: bool,
    lets_requests_through: bool,
    lets_answers_through: bool,
    /// What every chunk of bytes takes longer, in either direction.
    delay: Duration,
    /// Grows with every cut; a connection belongs to the count it was opened at.
    cuts: u64,
}

/// The way to one server of this machine. Its connections end with it.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Opens a way to `host:port`, where nobody has to listen yet.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (weather, seen) = watch::channel(Weather {
            is_up: true,
            lets_requests_through: true,
            lets_answers_through: true,
            delay: Duration::ZERO,
            cuts: 0,
        });
        let accepting = tokio::spawn(accept(listener, server.to_owned(), seen));
        Self {
            port,
            weather,
            accepting,
        }
    }

    /// Resets every open connection now; new ones are let through.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Resets every open connection, and each new one, until [`Self::up`].
    pub fn down(&self) {
        self.weather.send_modify(|weather| weather.is_up = false);
    }

    pub fn up(&self) {
        self.weather.send_modify(|weather| weather.is_up = true);
    }

    /// Holds every byte back until [`Self::resume`]; nobody is told.
    pub fn stall(&self) {
        self.weather.send_modify(|weather| {
            weather.lets_requests_through = false;
            weather.lets_answers_through = false;
        });
    }

    /// Holds back what the server says until [`Self::resume`]; what it is asked to do reaches it.
    pub fn hold_answers(&self) {
        self.weather
            .send_modify(|weather| weather.lets_answers_through = false);
    }

    pub fn resume(&self) {
        self.weather.send_modify(|weather| {
            weather.lets_requests_through = true;
            weather.lets_answers_through = true;
        });
    }

    /// Makes every chunk of bytes take `delay` longer, in either direction.
    pub fn slow(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are in a set of the accepting task's, and are aborted with it.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: String, weather: watch::Receiver<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            client = listener.accept() => {
                let (client, _) = client.unwrap();
                connections.spawn(carry(client, server.clone(), weather.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection's bytes until an end, or the weather, ends it.
async fn carry(mut client: TcpStream, server: String, weather: watch::Receiver<Weather>) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        let _ = client.set_zero_linger();
        return;
    };
    // Small answers go on at once, as they would without somebody in between.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut changes = weather.clone();
    let opened_at = weather.borrow().cuts;
    let is_reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            _ = changes.wait_for(|now| !now.is_up || now.cuts != opened_at) => true,
            done = async {
                tokio::try_join!(
                    pump(from_client, to_server, weather.clone(), |now| now.lets_requests_through),
                    pump(from_server, to_client, weather.clone(), |now| now.lets_answers_through),
                )
            } => done.is_err(),
        }
    };
    if is_reset {
        // Dropped with this, a connection is reset instead of closed: the other side sees an error, not an end.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pump(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    is_let_through: fn(&Weather) -> bool,
) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut chunk).await?;
        let delay = weather.borrow().delay;
        if !delay.is_zero() {
            nap(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)).await;
        }
        // A proxy that is gone has no stall to wait for.
        let _ = weather.wait_for(is_let_through).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}
