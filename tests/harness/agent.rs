//! The agent as a process of its own, on a machine the test makes up.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::{
    Ground, Person,
    process::{Process, command},
};

/// A machine: its name, the folder its agent keeps, and where its engine is.
pub struct Machine {
    name: String,
    folder: PathBuf,
    server: SocketAddr,
    engine: String,
}

impl Machine {
    /// One whose engine does not answer.
    pub fn without_engine(ground: &Ground, server: SocketAddr, name: &str) -> Self {
        Self::with_engine(ground, server, name, "unix:///no/such/socket")
    }

    pub fn with_engine(ground: &Ground, server: SocketAddr, name: &str, engine: &str) -> Self {
        let folder = ground.folder().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            name: name.to_owned(),
            folder,
            server,
            engine: engine.to_owned(),
        }
    }

    /// The command that starts its agent; what it logs is in [`Machine::log`].
    pub fn command(&self, ground: &Ground, token: Option<&str>) -> Command {
        let server = format!("http://{}", self.server);
        let mut command = command(ground, &["agent", "--server", &server]);
        command
            .env("AGENT_STATE", &self.folder)
            .env("AGENT_INSTANCE_ID", &self.name)
            .env("AGENT_INSTANCE_TYPE", "test")
            .env("DOCKER_HOST", &self.engine)
            .env("LOG", "info,main_webserver=debug");
        if let Some(token) = token {
            command.env("AGENT_TOKEN", token);
        }
        command
    }

    /// Its agent, once the server has heard of it.
    pub async fn start(&self, ground: &Ground, token: Option<&str>) -> Process {
        let mut command = self.command(ground, token);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        command.stderr(Stdio::from(log.unwrap()));
        Process::until_it_says(command, "host").await
    }

    pub fn file(&self) -> PathBuf {
        self.folder.join("agent.credential")
    }

    /// Whoever has read its file: the host's credential, its id in the place of the e-mail address.
    pub fn agent(&self) -> Person {
        let credential = read(&self.file());
        let (id, _) = credential.split_once('.').unwrap();
        Person {
            email: id.to_owned(),
            token: Some(credential.clone()),
            ..Person::at(self.server)
        }
    }

    /// What its agent has logged at every start.
    pub fn log(&self) -> String {
        read(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}
