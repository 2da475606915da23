//! `healthcheck`: what an image without a shell asks itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{say, say_error};
use crate::config::Settings;

/// A process that takes longer to answer is as good as none.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub struct Arguments {
    /// Asks a worker, on `METRICS_PORT`, instead of a web server.
    #[arg(long)]
    worker: bool,
    /// Asks only whether the process runs, not whether it can do its work.
    #[arg(long)]
    alive: bool,
}

pub async fn run(settings: &Settings, arguments: &Arguments) -> ExitCode {
    let port = if arguments.worker {
        settings.metrics_port
    } else {
        settings.port
    };
    if port == 0 {
        say_error(&"no port to ask: set METRICS_PORT for a worker, PORT for a web server");
        return ExitCode::FAILURE;
    }
    let address = SocketAddr::new(reachable(settings.host), port);
    let path = if arguments.alive {
        "/healthz"
    } else {
        "/readyz"
    };
    let answer = tokio::time::timeout(PATIENCE, ask(address, path)).await;
    match answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(200) => {
            say(&format!("ok: {address}{path}"));
            ExitCode::SUCCESS
        }
        Ok(status) => {
            say_error(&format!("{address}{path} answers {status}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            say_error(&format!("{address}{path}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Who listens everywhere is asked on this machine.
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    }
}

/// The status of one GET.
async fn ask(address: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // `HTTP/1.0 200`
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok())
        .ok_or_else(|| io::Error::other("that is no answer of a web server"))
}
