//! The settings of backups, and of where large things are kept.

use std::path::PathBuf;

use url::Url;

use super::{
    Secret, Sources,
    key::{Kind, settings},
    kinds::{Maybe, data_dir, looked, maybe, maybe_path, number, secret},
};
use crate::domain::cadence::Cadence;

settings! {
    /// Where backups go, how they are closed, when they are made, and how many stay.
    pub struct Backup {
        /// where backups go; without it none are made
        BACKUP_URL place: Option<Place> = At { own: "BACKUP_S3", usual: "none" };
        /// what backups are encrypted with, as age-keygen prints it; older ones are tried after the first
        BACKUP_KEY keys: Vec<Secret> = Identities;
        /// when a backup is made
        BACKUP_CRON cron: String = looked("a cron expression", "0 2 * * *", cron);
        /// in which BACKUP_CRON is meant, and days are counted
        BACKUP_TIME_ZONE time_zone: String = looked("a time zone", "UTC", time_zone);
        /// server on which backups are restored to try them
        BACKUP_SCRATCH_URL scratch: Option<Secret> = secret("postgres://…", "the database's server", scratch);
        /// where pg_dump and pg_restore are
        PG_BIN programs: Option<PathBuf> = maybe_path("a folder", "PATH");
    }
    also {
        /// the S3 of backups
        BACKUP_S3_ENDPOINT = maybe("a URL", "AWS_ENDPOINT_URL", plain);
        /// its region
        BACKUP_S3_REGION = maybe("a name", "AWS_REGION", plain);
        /// id of the key to it
        BACKUP_S3_KEY_ID = maybe("text", "AWS_ACCESS_KEY_ID", plain);
        /// the key to it
        BACKUP_S3_SECRET = hidden("AWS_SECRET_ACCESS_KEY");
        /// an S3 that is not Amazon's
        AWS_ENDPOINT_URL = maybe("a URL", "Amazon's", plain);
        /// region of the S3
        AWS_REGION = maybe("a name", "us-east-1", plain);
        /// id of the key to the S3
        AWS_ACCESS_KEY_ID = maybe("text", "the machine's role", plain);
        /// the key to the S3
        AWS_SECRET_ACCESS_KEY = hidden("");
    }
    groups { keep: Keep }
}

settings! {
    /// How many days, weeks and months have a backup that stays.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Keep {
        /// of how many days a backup stays
        BACKUP_KEEP_DAILY daily: u32 = number(7, 0..=10_000);
        /// of how many weeks
        BACKUP_KEEP_WEEKLY weekly: u32 = number(5, 0..=10_000);
        /// of how many months
        BACKUP_KEEP_MONTHLY monthly: u32 = number(12, 0..=10_000);
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "what a text is looked at with may refuse it"
)]
fn plain(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

const fn hidden(without: &'static str) -> Maybe<Secret> {
    secret("text", without, |text| Ok(Secret::new(text.to_owned())))
}

/// A folder, or a part of a bucket.
#[derive(Debug, Clone)]
pub enum Place {
    Folder(PathBuf),
    Bucket {
        bucket: String,
        prefix: String,
        access: Access,
    },
}

/// How an S3 is reached.
#[derive(Debug, Clone)]
pub struct Access {
    /// `None` is Amazon's of the region.
    pub endpoint: Option<String>,
    pub region: String,
    pub key_id: Option<String>,
    pub secret: Option<Secret>,
}

impl Access {
    /// As the names that begin with `own` say, and where they do not, those that everybody uses.
    fn of(sources: &Sources, own: &str) -> Self {
        let of = |name: &str, usual: &str| {
            let own = (!own.is_empty()).then(|| sources.text(&format!("{own}_{name}")));
            own.flatten().or_else(|| sources.text(usual))
        };
        Self {
            endpoint: of("ENDPOINT", "AWS_ENDPOINT_URL"),
            region: of("REGION", "AWS_REGION").unwrap_or_else(|| "us-east-1".to_owned()),
            key_id: of("KEY_ID", "AWS_ACCESS_KEY_ID"),
            secret: of("SECRET", "AWS_SECRET_ACCESS_KEY").map(Secret::new),
        }
    }
}

/// A place by its URL, with the access that the settings whose names begin with `own` give.
#[derive(Clone)]
pub(super) struct At {
    own: &'static str,
    usual: &'static str,
}

impl Kind for At {
    type Value = Option<Place>;

    fn accepts(&self) -> String {
        "file:///… or s3://bucket/prefix".to_owned()
    }

    fn usual(&self) -> String {
        self.usual.to_owned()
    }

    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<Option<Place>, String> {
        let place = text.map(|text| place(text, Access::of(sources, self.own)));
        place.transpose()
    }
}

/// Where blobs go: what `BLOB_URL` says, else a folder of the data directory.
#[derive(Clone)]
pub(super) struct Blobs;

impl Kind for Blobs {
    type Value = Place;

    fn accepts(&self) -> String {
        "file:///… or s3://bucket/prefix".to_owned()
    }

    fn usual(&self) -> String {
        "blobs in DATA_DIR".to_owned()
    }

    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<Place, String> {
        match text {
            Some(text) => place(text, Access::of(sources, "")),
            None => Ok(Place::Folder(data_dir(sources).join("blobs"))),
        }
    }
}

fn place(text: &str, access: Access) -> Result<Place, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL, {error}"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        let problem = "has more than a place; keys have settings of their own";
        return Err(problem.to_owned());
    }
    match url.scheme() {
        "file" => url
            .to_file_path()
            .map(Place::Folder)
            .map_err(|()| "not a folder's name from the root on".to_owned()),
        "s3" => {
            let bucket = url.host_str().ok_or("has no bucket")?;
            if access.key_id.is_some() != access.secret.is_some() {
                return Err("needs the key's id and its secret, or neither".to_owned());
            }
            Ok(Place::Bucket {
                bucket: bucket.to_owned(),
                prefix: url.path().trim_matches('/').to_owned(),
                access,
            })
        }
        scheme => Err(format!("'{scheme}' is another scheme")),
    }
}

/// Identities of age, the first to close with, all to open with.
#[derive(Clone)]
struct Identities;

impl Kind for Identities {
    type Value = Vec<Secret>;

    fn accepts(&self) -> String {
        "AGE-SECRET-KEY-1…, more after commas".to_owned()
    }

    fn usual(&self) -> String {
        "in clear".to_owned()
    }

    fn read(&self, text: Option<&str>, _: &Sources) -> Result<Vec<Secret>, String> {
        let keys = text.iter().flat_map(|text| text.split(',')).map(str::trim);
        let read = |key: &str| {
            let is_identity = key.len() == 74 && key.starts_with("AGE-SECRET-KEY-1");
            // What it is stays out of the words.
            is_identity
                .then(|| Secret::new(key.to_owned()))
                .ok_or_else(|| "not an identity as age-keygen prints it".to_owned())
        };
        keys.map(read).collect()
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn shown(&self, _: &str) -> String {
        "…".to_owned()
    }
}

fn cron(text: &str) -> Result<String, String> {
    Cadence::parse(text, "UTC").map_err(|refused| refused.0)?;
    Ok(text.to_owned())
}

fn time_zone(text: &str) -> Result<String, String> {
    Cadence::parse("0 2 * * *", text).map_err(|refused| refused.0)?;
    Ok(text.to_owned())
}

fn scratch(text: &str) -> Result<Secret, String> {
    let is_postgres = Url::parse(text)
        .is_ok_and(|url| ["postgres", "postgresql"].contains(&url.scheme()) && url.has_host());
    if is_postgres {
        Ok(Secret::new(text.to_owned()))
    } else {
        Err("not the URL of a PostgreSQL".to_owned())
    }
}
