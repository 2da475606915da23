//! `serve`, `web` and `worker`: start, say where, wait for a signal, drain.

use std::{fmt::Write as _, process::ExitCode, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};

use super::say;
use crate::{
    app::{App, Role, Seams, StartError},
    config::{Configuration, Settings},
    providers::ProviderError,
    web::IS_CONSOLE_EMBEDDED,
};

pub async fn run(configuration: &Arc<Configuration>, role: Role) -> Result<ExitCode, StartError> {
    let refuse = |error| StartError::File {
        path: "the signal handler".to_owned(),
        error,
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refuse)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(refuse)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(refuse)?;
    let app = App::start(configuration, Seams::default(), role).await?;
    say(&banner(&configuration.settings(), &app).await);
    let mut failure_check = tokio::time::interval_at(
        tokio::time::Instant::now(),
        std::time::Duration::from_secs(1),
    );
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hang_up.recv() => app.reload().await,
            _ = failure_check.tick() => if app.has_failed() {
                tracing::error!("the web server has ended by itself");
                app.stop().await;
                return Ok(ExitCode::FAILURE);
            },
        }
    }
    say("stopping: running tasks get their time; a second signal ends at once");
    tokio::select! {
        () = app.stop() => Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn banner(settings: &Settings, app: &App) -> String {
    let mut lines = format!("main-webserver {}\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(lines, "  {name:<9} {value}");
    };
    if let Some(address) = app.address {
        if settings.console {
            let how = if IS_CONSOLE_EMBEDDED {
                "embedded"
            } else {
                "loaded from a CDN"
            };
            line("console", format!("http://{address}/  (GraphiQL, {how})"));
        }
        line(
            "endpoint",
            format!("http://{address}/graphql  (WebSocket: ws://{address}/graphql)"),
        );
    }
    if let Some(address) = app.meters_address {
        line("meters", format!("http://{address}/metrics"));
    }
    if let Some(address) = app.address.or(app.meters_address) {
        line(
            "health",
            format!("http://{address}/healthz  http://{address}/readyz"),
        );
    }
    line("database", settings.database.shown());
    line(
        "queue",
        match &settings.redis_url {
            None => "in this process".to_owned(),
            Some(url) => match app.bus.ping().await {
                Ok(()) => url.without_password(),
                Err(_) => format!(
                    "{} is not reachable now; tasks go on at the sweeper's pace",
                    url.without_password()
                ),
            },
        },
    );
    if let Some(providers) = &app.providers {
        line("engine", said(providers.containers.default().ping().await));
        line("machines", said(providers.machines.default().ping().await));
    }
    if let Some(seeded) = &app.seeded {
        line(
            "admin",
            match &seeded.generated_password {
                Some(password) => {
                    format!("{}  password {password}  (shown this once)", seeded.email)
                }
                None => format!("{}  password from ADMIN_PASSWORD", seeded.email),
            },
        );
    }
    lines.trim_end().to_owned()
}

/// What an engine says of itself.
fn said(answer: Result<String, ProviderError>) -> String {
    answer.unwrap_or_else(|error| format!("{error}; its tasks are tried again until it answers"))
}
