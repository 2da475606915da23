//! What an empty database starts with: an administrator, the regions and a first app.

use super::Services;
use crate::{
    auth::generate_password,
    config::Settings,
    domain::{
        policy::Role,
        value::{DisplayName, Email, NewPassword},
    },
    error::{AppError, InField as _},
    store::{accounts, apps, regions},
};

/// The regions the service starts with.
const REGIONS: [&str; 5] = [
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "ca-central-1",
];

/// The administrator that was made, with the password when it was made up here.
pub struct Seeded {
    pub email: String,
    pub generated_password: Option<String>,
}

impl Services {
    /// Fills an empty database; `None` when it is not empty. Of processes that start together one wins.
    pub async fn seed(&self, settings: &Settings) -> Result<Option<Seeded>, AppError> {
        if !accounts::is_empty(self.store.db()).await? {
            return Ok(None);
        }
        let generated = settings.admin_password.is_none().then(generate_password);
        let chosen = settings
            .admin_password
            .as_ref()
            .map(|secret| secret.expose().to_owned());
        let password =
            NewPassword::parse(&chosen.or_else(|| generated.clone()).unwrap_or_default())
                .in_field("password")?;
        let email = Email::parse(&settings.admin_email).in_field("email")?;
        let name = DisplayName::parse("Administrator").in_field("name")?;
        let hash = self.auth.passwords.hash(&password).await?;
        let mut tx = self.store.begin().await?;
        match accounts::insert(&mut tx, &email, &name, hash, Role::Admin).await {
            Err(AppError::Conflict(_)) => return Ok(None),
            account => account?,
        };
        for region in REGIONS {
            regions::insert(&mut tx, region).await?;
        }
        apps::insert(&mut tx, hello()).await?;
        tx.commit().await?;
        Ok(Some(Seeded {
            email: email.as_str().to_owned(),
            generated_password: generated,
        }))
    }
}

/// A web server of a few kilobytes, so that the first container has something to show.
fn hello() -> apps::NewApp {
    const SERVE: &str = "mkdir -p /tmp/www && echo \"Hello from $CONTAINER_ID at $CONTAINER_DPI dpi\" > /tmp/www/index.html \
        && exec busybox httpd -f -p 8080 -h /tmp/www";
    apps::NewApp {
        slug: "hello".to_owned(),
        name: "Hello".to_owned(),
        category: "Examples".to_owned(),
        description: "A small web page that says which container serves it.".to_owned(),
        image: "busybox:1.37".to_owned(),
        images: std::collections::BTreeMap::new(),
        command: ["sh", "-c", SERVE].map(str::to_owned).to_vec(),
        ports: vec![8080],
        cpu_millis: 250,
        memory_bytes: 64 * 1024 * 1024,
    }
}
