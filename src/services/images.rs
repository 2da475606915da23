//! What virtual machines can be started from.

use sea_orm::ActiveValue::Set;
use serde_json::json;

use super::{
    Services,
    catalogue::{invalid, ports, text},
    may_with_all,
};
use crate::{
    domain::{
        policy::{Action, Resource, Viewer},
        value::{DisplayName, Slug},
    },
    error::{AppError, InField as _},
    store::{apps::Ports, audit, images},
};

/// An image as it is to be.
pub struct Image<'a> {
    pub slug: &'a str,
    pub name: &'a str,
    pub description: &'a str,
    pub disk: Option<&'a str>,
    pub kernel: Option<&'a str>,
    pub initrd: Option<&'a str>,
    pub command_line: &'a str,
    pub ready_text: Option<&'a str>,
    pub ports: Vec<i32>,
    pub cpus: i32,
    pub memory_mebibytes: i32,
    pub disk_mebibytes: i32,
    pub active: bool,
}

/// A path inside the engine's folder of images.
fn path(field: &'static str, path: Option<&str>) -> Result<Option<String>, AppError> {
    let Some(path) = path else { return Ok(None) };
    let is_inside = (1..=512).contains(&path.len())
        && !path.starts_with('/')
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && path
            .chars()
            .all(|c| c.is_alphanumeric() || "._-+/".contains(c));
    if is_inside {
        return Ok(Some(path.to_owned()));
    }
    Err(invalid(
        field,
        "the name of a file in the folder of images is expected, such as debian/12.qcow2",
    ))
}

impl Services {
    /// Adds an image to the catalogue, or changes the one with its slug. Machines there are start from it as it is then.
    pub async fn put_image(
        &self,
        viewer: Viewer,
        image: Image<'_>,
    ) -> Result<images::Model, AppError> {
        may_with_all(viewer, Action::Create, Resource::Image)?;
        let slug = Slug::parse(image.slug).in_field("slug")?;
        let name = DisplayName::parse(image.name).in_field("name")?;
        let within = |field, number: i32, least: i32, most: i32| {
            if (least..=most).contains(&number) {
                return Ok(number);
            }
            Err(invalid(field, &format!("{least} to {most} is expected")))
        };
        let (disk, kernel) = (path("disk", image.disk)?, path("kernel", image.kernel)?);
        let initrd = path("initrd", image.initrd)?;
        if disk.is_none() && kernel.is_none() {
            return Err(invalid("disk", "a disk or a kernel to boot is expected"));
        }
        if kernel.is_none() && (initrd.is_some() || !image.command_line.is_empty()) {
            return Err(invalid("kernel", "a kernel is expected with these"));
        }
        let ready = image
            .ready_text
            .map(|said| text("readyText", said, 256))
            .transpose()?;
        let row = images::ActiveModel {
            name: Set(name.as_str().to_owned()),
            description: Set(text("description", image.description, 4000)?),
            disk: Set(disk),
            kernel: Set(kernel),
            initrd: Set(initrd),
            command_line: Set(text("commandLine", image.command_line, 2000)?),
            ready_text: Set(ready.filter(|said| !said.is_empty())),
            ports: Set(Ports(ports(&image.ports)?)),
            cpus: Set(i16::try_from(within("cpus", image.cpus, 1, 256)?).unwrap_or(1)),
            memory_bytes: Set(i64::from(within(
                "memoryMebibytes",
                image.memory_mebibytes,
                32,
                16_777_216,
            )?) << 20),
            disk_bytes: Set(i64::from(within(
                "diskMebibytes",
                image.disk_mebibytes,
                1,
                67_108_864,
            )?) << 20),
            active: Set(image.active),
            ..Default::default()
        };
        let mut tx = self.store.begin().await?;
        let row = images::put(&mut tx, row, slug.as_str()).await?;
        let detail = json!({ "slug": row.slug, "disk": row.disk, "kernel": row.kernel });
        audit::record(&mut tx, viewer, "image.put", row.id(), detail).await?;
        tx.commit().await?;
        Ok(row)
    }
}
