//! How long what has been recorded is kept.

use std::time::Duration;

use super::{key::settings, kinds::days};

settings! {
    /// How long what has been recorded is kept.
    #[derive(Copy)]
    pub struct Records {
        /// how long what containers and machines have written is kept
        LOG_DAYS logs: Duration = days(14, 1..=36_500), reloads;
        /// how long ended logins are kept, and what came of each try to log in
        LOGIN_DAYS logins: Duration = days(365, 1..=36_500), reloads;
        /// how long audit events are kept
        AUDIT_DAYS audit: Duration = days(3650, 1..=36_500), reloads;
        /// how long what was reported of connections is kept, unless it is bookmarked
        CONNECTION_LOG_DAYS connections: Duration = days(30, 1..=36_500);
    }
}
