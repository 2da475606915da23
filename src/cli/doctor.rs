//! `doctor`: checks every dependency and says what is wrong and how to mend it.

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use super::say;
use crate::{
    backup::{BackupError, Backups},
    config::{Database, MachineProviderChoice, ProviderChoice, Settings},
    domain::{Entropy, SystemClock},
    error::TransportError,
    providers::{self, Docker, Engine as _},
    store::{connection, migrate},
    telemetry::Meters,
    web,
};

/// What a check found: fine, or wrong with a way to mend it.
enum Finding {
    Fine(String),
    Wrong { problem: String, mend: &'static str },
}

pub async fn run(settings: &Settings) -> ExitCode {
    let mut findings = vec![
        ("settings", Finding::Fine("all can be read".to_owned())),
        ("secret", secret(settings)),
        ("port", port(settings).await),
        ("database", database(settings).await),
        ("redis", redis(settings).await),
        ("engine", engine(settings).await),
        ("machines", machines(settings).await),
    ];
    if settings.backup.place.is_some() {
        findings.push(("backups", backups(settings).await));
    }
    let mut is_well = true;
    for (name, finding) in findings {
        match finding {
            Finding::Fine(what) => say(&format!("ok     {name:<9} {what}")),
            Finding::Wrong { problem, mend } => {
                is_well = false;
                say(&format!(
                    "WRONG  {name:<9} {problem}\n                 {mend}"
                ));
            }
        }
    }
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn secret(settings: &Settings) -> Finding {
    match (&settings.secret_key, &settings.database) {
        (Some(_), _) => Finding::Fine("SECRET_KEY is set".to_owned()),
        (None, Database::Sqlite(_)) => Finding::Fine(format!(
            "kept in {}",
            settings.data_dir.join("secret.key").display()
        )),
        (None, Database::Postgres(_)) => Finding::Wrong {
            problem: "SECRET_KEY is not set".to_owned(),
            mend: "set it, the same for every process, to the output of: openssl rand -hex 32",
        },
    }
}

async fn backups(settings: &Settings) -> Finding {
    let clock = Arc::new(SystemClock);
    let entropy = Arc::new(Entropy::from_os());
    let checked = async {
        let opened = Backups::open(settings, clock, entropy, Arc::new(Meters::default()))?;
        opened.ok_or(BackupError::NoPlace)?.check().await
    };
    match checked.await {
        Ok(Some(newest)) => Finding::Fine(format!("the newest is {}", newest.name)),
        Ok(None) => Finding::Fine("there is none yet".to_owned()),
        Err(error) => Finding::Wrong {
            problem: error.to_string(),
            mend: "check BACKUP_URL with its keys, and that PG_BIN or PATH has PostgreSQL's programs of the server's version",
        },
    }
}

async fn port(settings: &Settings) -> Finding {
    let address = SocketAddr::new(settings.host, settings.port);
    match web::bind(address).await {
        Ok(_) => Finding::Fine(format!("{address} is free")),
        Err(error) => Finding::Wrong {
            problem: format!("{address}: {error}"),
            mend: "stop what listens there (perhaps this service already), or set HOST or PORT",
        },
    }
}

async fn database(settings: &Settings) -> Finding {
    let mend =
        "check that it runs and that DATABASE_URL or POSTGRES_* name it, its user and password";
    let db = match connection::open(settings).await {
        Ok(connections) => connections.people,
        Err(error) => {
            return Finding::Wrong {
                problem: error.to_string(),
                mend,
            };
        }
    };
    match migrate::standing(&db).await {
        Ok(standing) if !standing.newer.is_empty() => {
            Finding::Fine("answers, its tables are those of a newer version".to_owned())
        }
        Ok(standing) if standing.pending.is_empty() => {
            Finding::Fine("answers, its tables are up to date".to_owned())
        }
        Ok(standing) => Finding::Fine(format!(
            "answers; the next start applies {} migrations",
            standing.pending.len()
        )),
        Err(error) => Finding::Wrong {
            problem: error.to_string(),
            mend,
        },
    }
}

async fn redis(settings: &Settings) -> Finding {
    let Some(url) = &settings.redis_url else {
        return Finding::Fine("not asked for: the queue is inside the process".to_owned());
    };
    match crate::redis::reach(url).await {
        Ok(()) => Finding::Fine(format!("{} answers", url.without_password())),
        Err(error) if is_about_certificate(&error) => Finding::Wrong {
            problem: format!(
                "{}: nobody known here has signed its certificate, or that names another server ({error})",
                url.without_password()
            ),
            mend: "let the system know who has signed it, or set REDIS_CERTIFICATE to any: what is said is secret then, who says it \
                is not proven",
        },
        Err(error) => Finding::Wrong {
            problem: format!("{}: {error}", url.without_password()),
            mend: "check that it runs and that REDIS_URL names it; until then tasks go on at the sweeper's pace",
        },
    }
}

/// Whether the server is there, and its certificate is not taken.
fn is_about_certificate(error: &TransportError) -> bool {
    // The library has no other sign of it than the name of rustls' error.
    error.0.contains("InvalidCertificate")
}

async fn engine(settings: &Settings) -> Finding {
    if settings.provider == ProviderChoice::Simulated {
        return Finding::Fine("simulated, as PROVIDER asks".to_owned());
    }
    match (
        Docker::at(&settings.docker_host).ping().await,
        settings.provider,
    ) {
        (Ok(version), _) => Finding::Fine(version),
        (Err(error), ProviderChoice::Auto) => Finding::Fine(format!("simulated, because {error}")),
        (
            Err(error),
            ProviderChoice::Docker | ProviderChoice::Swarm | ProviderChoice::Simulated,
        ) => Finding::Wrong {
            problem: error.to_string(),
            mend: "check that the engine runs, that DOCKER_HOST names it and that this user may use its socket",
        },
    }
}

async fn machines(settings: &Settings) -> Finding {
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(Entropy::from_os()));
    let engines = providers::of_machines(settings, clock, entropy).await;
    let is_asked_for = settings.machines.provider != MachineProviderChoice::Auto;
    match engines.default().ping().await {
        Ok(version) if is_asked_for || !engines.default().is_private() => Finding::Fine(version),
        Ok(version) => Finding::Fine(format!("{version}, since there is no QEMU here")),
        Err(error) => Finding::Wrong {
            problem: error.to_string(),
            mend: "install qemu-system-x86 and qemu-utils, and see that MACHINE_DIR can be written to",
        },
    }
}
