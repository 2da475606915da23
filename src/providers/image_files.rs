//! What a machine starts from, seen to be there, whole, and inside the folder of images.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use super::{
    Image, ProviderError,
    program::{DISKS, Output, command, run},
};

/// Longest check of a disk's tables.
const CHECK: Duration = Duration::from_secs(300);
/// Longest look at a disk's header.
pub(super) const LOOK: Duration = Duration::from_secs(20);
/// Most layers below a disk.
const DEEPEST: usize = 16;

/// An image whose files are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) disk: Option<Disk>,
    pub(super) kernel: Option<PathBuf>,
    pub(super) initrd: Option<PathBuf>,
}

/// A disk that others are layers of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    /// As `qemu-img` names it: `qcow2` or `raw`.
    pub(super) format: String,
    /// Bytes its guest sees.
    pub(super) bytes: u64,
}

/// Finds the files of an image below `folder`.
pub(super) async fn find(
    engine: &'static str,
    folder: &Path,
    image: &Image,
) -> Result<Found, ProviderError> {
    let file = |name: &Option<String>| -> Result<Option<PathBuf>, ProviderError> {
        let name = name.as_deref();
        name.map(|name| inside(folder, Path::new(name)).map_err(|why| none(name, &why)))
            .transpose()
    };
    let (kernel, initrd) = (file(&image.kernel)?, file(&image.initrd)?);
    if initrd.is_some() && kernel.is_none() {
        return Err(none("initrd", "there is no kernel to go with it"));
    }
    let disk = match (file(&image.disk)?, &image.disk) {
        (Some(path), Some(name)) => {
            let found = layers(engine, folder, &path).await;
            Some(found.map_err(|error| match error {
                Fault::Image(why) => none(name, &why),
                Fault::Engine(error) => error,
            })?)
        }
        _ => None,
    };
    if disk.is_none() && kernel.is_none() {
        return Err(none("", "it has neither a disk nor a kernel to boot from"));
    }
    Ok(Found {
        disk,
        kernel,
        initrd,
    })
}

/// Whether a disk's tables are whole. One without tables is what it is.
pub(super) async fn verify(engine: &'static str, disk: &Disk) -> Result<(), ProviderError> {
    if disk.format != "qcow2" {
        return Ok(());
    }
    let path = disk.path.display().to_string();
    // Shared, as machines run above it.
    let arguments = ["check", "-q", "-U", "-f", "qcow2", &path];
    let checked = disks(engine, &arguments, CHECK).await?;
    match checked.code {
        // 3: clusters that nobody uses, which harm nobody.
        Some(0 | 3) => Ok(()),
        None => Err(ended(engine, "the check of an image")),
        Some(_) => Err(none(
            &path,
            &format!("it is corrupt: {}", checked.complaint()),
        )),
    }
}

enum Fault {
    Image(String),
    Engine(ProviderError),
}

/// The disk, when all the layers below it are inside the folder, too: a header can name any file of the host.
async fn layers(engine: &'static str, folder: &Path, path: &Path) -> Result<Disk, Fault> {
    let (mut next, mut format, mut top) = (path.to_owned(), None, None);
    for _ in 0..DEEPEST {
        let about = about(engine, &next, format.as_deref()).await?;
        let text = |key: &str| about[key].as_str().map(str::to_owned);
        let said = text("format").unwrap_or_default();
        if !matches!(said.as_str(), "qcow2" | "raw") {
            return Err(Fault::Image(format!(
                "its format is {said}, not qcow2 or raw"
            )));
        }
        if about["format-specific"]["data"].get("data-file").is_some() {
            return Err(Fault::Image("it keeps its data in another file".to_owned()));
        }
        top.get_or_insert_with(|| Disk {
            path: next.clone(),
            format: said,
            bytes: about["virtual-size"].as_u64().unwrap_or_default(),
        });
        let Some(below) = text("backing-filename") else {
            break;
        };
        format = text("backing-filename-format");
        let below = next.parent().unwrap_or(folder).join(&below);
        next = inside(folder, &below).map_err(|why| {
            Fault::Image(format!("the layer below it, {}: {why}", below.display()))
        })?;
        if format.is_none() {
            return Err(Fault::Image(
                "it does not say the format of the layer below it".to_owned(),
            ));
        }
    }
    top.ok_or_else(|| Fault::Image("it has no layers".to_owned()))
}

async fn about(engine: &'static str, path: &Path, format: Option<&str>) -> Result<Value, Fault> {
    let path = path.display().to_string();
    let mut arguments = vec!["info", "-U", "--output=json"];
    arguments.extend(format.map(|format| ["-f", format]).into_iter().flatten());
    arguments.push(&path);
    let looked = disks(engine, &arguments, LOOK).await;
    let output = looked.map_err(Fault::Engine)?;
    if output.code.is_none() {
        return Err(Fault::Engine(ended(engine, "the look at an image")));
    }
    if !output.is_success() {
        return Err(Fault::Image(output.complaint()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| Fault::Image(error.to_string()))
}

async fn disks(
    engine: &'static str,
    arguments: &[&str],
    limit: Duration,
) -> Result<Output, ProviderError> {
    run(engine, command(DISKS, arguments, &[]), None, limit).await
}

/// A file's real path, when that is inside `folder`.
fn inside(folder: &Path, name: &Path) -> Result<PathBuf, String> {
    let missing = |error: io::Error| format!("it is not there: {error}");
    let folder = folder
        .canonicalize()
        .map_err(|error| format!("the folder of images, {}: {error}", folder.display()))?;
    let path = folder.join(name).canonicalize().map_err(missing)?;
    if !path.starts_with(&folder) {
        return Err("it is not in the folder of images".to_owned());
    }
    if !path.metadata().map_err(missing)?.is_file() {
        return Err("it is not a file".to_owned());
    }
    if path.to_str().is_none() {
        return Err("its name is not UTF-8".to_owned());
    }
    Ok(path)
}

/// A program that was ended from outside has said nothing of the image.
fn ended(engine: &'static str, what: &str) -> ProviderError {
    ProviderError::Failed {
        engine,
        why: format!("{what} was ended from outside"),
    }
}

pub(super) fn none(image: &str, why: &str) -> ProviderError {
    ProviderError::NoSuchImage {
        image: image.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_path_out_of_the_folder_is_no_image() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        fs::create_dir(&images).unwrap();
        fs::write(images.join("base"), "").unwrap();
        fs::write(folder.path().join("secret"), "").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), images.join("link")).unwrap();
        assert!(inside(&images, Path::new("base")).is_ok());
        assert!(inside(&images, &images.join("base")).is_ok());
        for name in ["../secret", "link", "/etc/passwd", "none", "."] {
            assert!(inside(&images, Path::new(name)).is_err(), "{name}");
        }
    }
}
