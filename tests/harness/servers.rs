//! PostgreSQL and Redis of the test's own, which it may stop, flush and kill.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use fred::interfaces::ClientLike as _;
use poem::{
    IntoEndpoint, Server,
    listener::{Acceptor as _, Listener as _, TcpListener},
};
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

use super::required;

/// A port nobody listens on now; for a server that has to come back at the same place. None of those that outgoing
/// connections take, which would take it while the server is away.
pub fn free_port() -> u16 {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    loop {
        // Each test is a process of its own, and begins elsewhere.
        let asked = ASKED.fetch_add(1, Ordering::Relaxed);
        let turn = std::process::id().wrapping_mul(31).wrapping_add(asked);
        let port = u16::try_from(20_000 + turn % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Serves at an address of its own until the handle is dropped.
pub async fn serve<E>(app: E) -> (SocketAddr, AbortOnDropHandle<()>)
where
    E: IntoEndpoint + Send + 'static,
    E::Endpoint: 'static,
{
    let bound = TcpListener::bind("127.0.0.1:0").into_acceptor().await;
    let acceptor = bound.unwrap();
    let address = *acceptor.local_addr()[0].as_socket_addr().unwrap();
    let serving = Server::new_with_acceptor(acceptor).run(app);
    let server = tokio::spawn(async move { serving.await.unwrap() });
    (address, AbortOnDropHandle::new(server))
}

/// A Redis that keeps nothing on disk; it is killed when the test ends.
pub struct Redis {
    port: u16,
    child: tokio::process::Child,
}

impl Redis {
    pub fn start(port: u16) -> Self {
        Self::with(port, &[])
    }

    /// The same with more of the server's arguments, in front of which a configuration file may stand.
    pub fn with(port: u16, more: &[&str]) -> Self {
        let (first, rest) = more
            .split_first()
            .filter(|(first, _)| !first.starts_with("--"))
            .map_or((None, more), |(file, rest)| (Some(*file), rest));
        let port_text = port.to_string();
        let arguments = [
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ];
        let child = Command::new("redis-server")
            .args(first)
            .args(arguments)
            .args(rest)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { port, child }
    }

    pub fn url(port: u16) -> String {
        format!("redis://127.0.0.1:{port}/0")
    }

    pub async fn flush_all(&self) {
        let config = fred::types::config::Config::from_url(&Self::url(self.port)).unwrap();
        let client = fred::types::Builder::from_config(config).build().unwrap();
        client.init().await.unwrap();
        let _: () = client.flushall(false).await.unwrap();
        client.quit().await.unwrap();
    }

    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// An orderly end.
    pub async fn end(mut self) {
        let pid = self.child.id().unwrap().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(asked.unwrap().success());
        self.child.wait().await.unwrap();
    }
}

/// A PostgreSQL that is not told to forgo `fsync`, so that a stop in the middle is a fair one.
pub struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
}

impl Postgres {
    /// One of the server's programs, as a user it agrees to run as.
    fn program(program: &str, arguments: &[&str]) -> std::process::Command {
        let path = format!("{}/{program}", required("TEST_POSTGRES_BIN"));
        let is_root = std::process::Command::new("id")
            .arg("-u")
            .output()
            .unwrap()
            .stdout
            == b"0\n";
        let mut command = if is_root {
            let mut command = std::process::Command::new("runuser");
            command.args(["-u", "postgres", "--", &path]);
            command
        } else {
            std::process::Command::new(path)
        };
        command
            .args(arguments)
            .current_dir("/")
            .stdout(Stdio::null());
        command
    }

    async fn run(program: &str, arguments: &[&str]) {
        let mut command = Command::from(Self::program(program, arguments));
        let status = command.status().await.unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    }

    pub async fn create() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pg")
            .tempdir_in("/tmp")
            .unwrap();
        let postgres = Self {
            folder,
            port: free_port(),
        };
        let owner = Command::new("chown")
            .arg("postgres")
            .arg(postgres.folder.path())
            .status()
            .await;
        assert!(owner.unwrap().success());
        let data = postgres.data();
        let arguments = ["-D", &data, "-U", "postgres", "--auth=trust", "--no-sync"];
        Self::run("initdb", &arguments).await;
        postgres
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    pub async fn start(&self) {
        let options = format!(
            "-p {} -k {} -c listen_addresses=127.0.0.1",
            self.port,
            self.folder.path().display()
        );
        let (data, log) = (
            self.data(),
            self.folder.path().join("log").display().to_string(),
        );
        let arguments = ["-D", &data, "-o", &options, "-l", &log, "-w", "start"];
        Self::run("pg_ctl", &arguments).await;
    }

    /// Stops as a crash would: no checkpoint, no word to the clients.
    pub async fn stop(&self) {
        let data = self.data();
        Self::run("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"]).await;
    }

    /// An orderly stop: clients are sent away, everything is written.
    pub async fn end(&self) {
        let data = self.data();
        Self::run("pg_ctl", &["-D", &data, "-m", "fast", "-w", "stop"]).await;
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// It is a daemon of its own, which a failed test would leave behind.
impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.data();
        let arguments = ["-D", &data, "-m", "immediate", "-w", "stop"];
        // One that has been stopped says so, and that is all.
        let _ = Self::program("pg_ctl", &arguments)
            .stderr(Stdio::null())
            .status();
    }
}
