//! What has been opened in a login ends with it.

use std::time::Duration;

use futures_util::future;

use super::Web;
use crate::{
    domain::{
        Id, Table,
        id::{Host, Session},
        policy::Viewer,
    },
    error::AppError,
    live::{Interest, InterestListener},
};

/// Pause before the next look while the database is away.
const OUTAGE: Duration = Duration::from_secs(1);

/// Watches a login for something that stays open: a log-out, here or elsewhere, is told like any change.
pub struct Login {
    of: Of,
    listener: InterestListener,
    /// At first, since it may have ended before anybody listened.
    must_look: bool,
}

/// What stands or ends.
#[derive(Clone, Copy)]
enum Of {
    Session(Id<Session>),
    /// With the registration that counted when it was opened; known after the first look.
    Host(Id<Host>, Option<i32>),
}

impl Of {
    async fn stands(&mut self, web: &Web) -> Result<bool, AppError> {
        match self {
            Self::Session(session) => web.auth.stands(*session, web.store.now()).await,
            Self::Host(host, opened) => {
                let now = web.auth.registration(&web.store, *host).await?;
                let opened = *opened.get_or_insert(now.unwrap_or_default());
                Ok(now == Some(opened))
            }
        }
    }
}

impl Login {
    /// `None` for who has not logged in.
    pub fn of(viewer: Viewer, web: &Web) -> Option<Self> {
        let (of, interest) = match viewer {
            Viewer::Host { id } => (Of::Host(id, None), Interest::Row(Table::Host, id.uuid())),
            Viewer::Anonymous | Viewer::User { .. } | Viewer::Admin { .. } | Viewer::System => {
                let session = viewer.session()?;
                let interest = Interest::Row(Table::Session, session.uuid());
                (Of::Session(session), interest)
            }
        };
        Some(Self {
            of,
            listener: web.bus.listen_to(interest),
            must_look: true,
        })
    }

    /// Waits for the end of the login; for ever without one. Nothing is lost when the waiting is given up.
    pub async fn ended(login: &mut Option<Self>, web: &Web) {
        let Some(login) = login else {
            return future::pending().await;
        };
        loop {
            if !login.must_look && !login.listener.changed().await {
                return future::pending().await;
            }
            login.must_look = true;
            // Boxed, because it is looked at rarely and waited for always, on every socket.
            match Box::pin(login.of.stands(web)).await {
                Ok(true) => login.must_look = false,
                Ok(false) => return,
                // The access token has an end as well, whatever happens here.
                Err(error) => {
                    tracing::debug!(%error, "a login could not be looked up");
                    web.store.clock.sleep(OUTAGE).await;
                }
            }
        }
    }
}
