//! What a machine has, in volumes of libvirt's pools, so that it can be on another host than the worker.
//!
//! `main-machine_<hex>.qcow2` is its disk, `.seed` what it is told by cloud-init, `.host-name` and `.secret-key` the same
//! by the firmware, `.log` what it writes on its serial port; `.tty` and `.vnc` are its consoles' sockets.

use std::path::{Path, PathBuf};

use super::{
    NAME, fat,
    virsh::{Virsh, failed, number, quota, rejected, said},
    xml::{escaped, text_of},
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{
        Guest, Image, ProviderError,
        cloud_init::{self, FIRMWARE, LABEL},
        image_files::{self, Disk, none},
        instance_name,
    },
};

/// The least an empty disk has.
const SECTOR: u64 = 512;
/// Most layers below a disk.
const DEEPEST: usize = 16;
const NO_VOLUME: &[&str] = &["failed to get vol", "Storage volume not found"];

/// Where the files of one machine are on its host.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) name: String,
    folder: PathBuf,
    pub(super) is_local: bool,
}

impl Places {
    pub(super) fn new(id: Id<VirtualMachine>, folder: &Path, is_local: bool) -> Self {
        Self {
            name: instance_name(id),
            folder: folder.to_owned(),
            is_local,
        }
    }

    pub(super) fn volume(&self, kind: &str) -> String {
        format!("{}.{kind}", self.name)
    }

    pub(super) fn file(&self, kind: &str) -> String {
        self.path(kind).display().to_string()
    }

    pub(super) fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(self.volume(kind))
    }
}

/// A pool of volumes that are files of one folder.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) folder: PathBuf,
}

impl Pool {
    /// The pool with this name.
    ///
    /// # Errors
    /// [`ProviderError::Rejected`], with how to make it, for one that is not there or is of another sort.
    pub(super) async fn find(virsh: &Virsh, name: &str) -> Result<Self, ProviderError> {
        let make = format!(
            "`virsh pool-define-as {name} dir --target FOLDER`, then `pool-build`, `pool-start` and `pool-autostart` make it"
        );
        let explained = |error| match error {
            ProviderError::Rejected { why, .. } => rejected(format!("{why}; {make}")),
            other => other,
        };
        let xml = virsh
            .ask(&["pool-dumpxml", name])
            .await
            .map_err(explained)?;
        let about = virsh.ask(&["pool-info", "--bytes", name]).await?;
        if !about
            .lines()
            .any(|line| line.starts_with("State:") && line.ends_with("running"))
        {
            let why = format!("its pool {name} is not active; `virsh pool-start {name}` starts it");
            return Err(rejected(why));
        }
        let target = xml.split_once("<target>").map(|(_, target)| target);
        let folder = target.and_then(|target| text_of(target, "path"));
        match folder {
            Some(folder) if folder.starts_with('/') => Ok(Self {
                name: name.to_owned(),
                folder: folder.into(),
            }),
            _ => Err(rejected(format!("its pool {name} is no folder; {make}"))),
        }
    }

    /// Refuses when the host has less disk space or memory than is to be left to it.
    pub(super) async fn has_room(
        &self,
        virsh: &Virsh,
        memory: u64,
        (disk_reserve, memory_reserve): (u64, u64),
    ) -> Result<(), ProviderError> {
        let script = format!("nodememstats; pool-info --bytes {}", self.name);
        let text = virsh.ask(&[&script]).await?;
        let kibibytes = ["free", "buffers", "cached"].map(|name| number(&text, name));
        let free = kibibytes.into_iter().flatten().sum::<u64>() << 10;
        if free < memory.saturating_add(memory_reserve) {
            let [wanted, free, kept] = [memory, free, memory_reserve].map(|bytes| bytes >> 20);
            return Err(quota(format!(
                "{wanted} MiB of memory are asked for; {free} MiB are there, {kept} MiB of them are kept"
            )));
        }
        let left = number(&text, "Available").unwrap_or_default();
        if left < disk_reserve {
            let [left, kept] = [left, disk_reserve].map(|bytes| bytes >> 20);
            return Err(quota(format!(
                "{left} MiB of disk space are left; {kept} MiB are kept"
            )));
        }
        Ok(())
    }

    /// Makes a machine's disk, above its image's or an empty one, and its log.
    pub(super) async fn make(
        &self,
        virsh: &Virsh,
        places: &Places,
        base: Option<&Disk>,
        bytes: u64,
    ) -> Result<(), ProviderError> {
        // A larger base stays as large as it is.
        let bytes = base.map_or(0, |base| base.bytes).max(bytes).max(SECTOR);
        let below = base.map(|base| {
            let path = escaped(&base.path.display().to_string());
            let format = escaped(&base.format);
            format!("<backingStore><path>{path}</path><format type='{format}'/></backingStore>")
        });
        let disk = format!(
            "<volume><name>{}</name><capacity unit='bytes'>{}</capacity><target><format type='qcow2'/>\
             <compat>1.1</compat><permissions><mode>0600</mode></permissions></target>{}</volume>",
            places.volume("qcow2"),
            bytes.next_multiple_of(SECTOR),
            below.unwrap_or_default()
        );
        let create = ["vol-create", &self.name, "/dev/stdin"];
        virsh.give(&create, disk.as_bytes()).await?;
        self.put(virsh, &places.volume("log"), &[]).await
    }

    /// Writes anew what a guest is told at its start.
    pub(super) async fn tell(
        &self,
        virsh: &Virsh,
        places: &Places,
        guest: &Guest,
    ) -> Result<(), ProviderError> {
        let (meta, user) = (cloud_init::meta_data(guest), cloud_init::user_data(guest));
        let files = [
            ("meta-data", meta.as_bytes()),
            ("user-data", user.as_bytes()),
        ];
        let seed = fat::disk(LABEL, &files)
            .ok_or_else(|| rejected("what the guest is to be told is too long".to_owned()))?;
        self.put(virsh, &places.volume("seed"), &seed).await?;
        for (name, text) in FIRMWARE.iter().zip(cloud_init::firmware(guest)) {
            self.put(virsh, &places.volume(name), text.as_bytes())
                .await?;
        }
        Ok(())
    }

    /// A volume with these bytes, in place of what was there.
    async fn put(&self, virsh: &Virsh, volume: &str, bytes: &[u8]) -> Result<(), ProviderError> {
        let (pool, length) = (&self.name, bytes.len());
        let remove = ["vol-delete", "--pool", pool, volume];
        virsh.tried(&remove, NO_VOLUME).await?;
        let length = format!("{length}B");
        let create = ["vol-create-as", pool, volume, &length, "--format", "raw"];
        virsh.ask(&create).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        let upload = ["vol-upload", "--pool", pool, volume, "/dev/stdin"];
        virsh.give(&upload, bytes).await
    }

    /// Makes the disk of a machine that is off as large as `bytes`; a larger one stays as it is.
    pub(super) async fn grow(
        &self,
        virsh: &Virsh,
        places: &Places,
        bytes: u64,
    ) -> Result<(), ProviderError> {
        let (pool, volume) = (&self.name, places.volume("qcow2"));
        let about = virsh
            .ask(&["vol-info", "--bytes", "--pool", pool, &volume])
            .await?;
        if number(&about, "Capacity").unwrap_or_default() >= bytes {
            return Ok(());
        }
        let bytes = format!("{}B", bytes.next_multiple_of(SECTOR));
        let resize = ["vol-resize", "--pool", pool, &volume, &bytes];
        virsh.ask(&resize).await.map(drop)
    }

    /// Deletes all that a machine has, the pieces of its log among it.
    pub(super) async fn delete(&self, virsh: &Virsh, places: &Places) -> Result<(), ProviderError> {
        // Best effort: a pool that is being written to is not looked through.
        virsh.run(&["pool-refresh", &self.name], None).await?;
        let listed = virsh.ask(&["vol-list", &self.name]).await?;
        let prefix = places.volume("");
        let names = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        for name in names.filter(|name| name.starts_with(&prefix)) {
            let remove = ["vol-delete", "--pool", &self.name, name];
            virsh.tried(&remove, NO_VOLUME).await?;
        }
        if places.is_local {
            for socket in ["tty", "vnc"] {
                let _ = tokio::fs::remove_file(places.path(socket)).await;
            }
        }
        Ok(())
    }

    /// The files of an image: its paths are names of this pool's volumes.
    ///
    /// Where the folder can be read here, its disk is checked layer by layer; elsewhere libvirt says where the layers are,
    /// and nobody can say whether the tables are whole.
    pub(super) async fn image(
        &self,
        virsh: &Virsh,
        image: &Image,
    ) -> Result<image_files::Found, ProviderError> {
        if virsh.is_local() && tokio::fs::read_dir(&self.folder).await.is_ok() {
            let found = image_files::find(NAME, &self.folder, image).await?;
            if let Some(disk) = &found.disk {
                image_files::verify(NAME, disk).await?;
            }
            return Ok(found);
        }
        let mut found = image_files::Found {
            disk: None,
            kernel: None,
            initrd: None,
        };
        if let Some(name) = &image.disk {
            found.disk = Some(self.layers(virsh, name).await?);
        }
        for (name, place) in [
            (&image.kernel, &mut found.kernel),
            (&image.initrd, &mut found.initrd),
        ] {
            if let Some(name) = name {
                self.volume(virsh, name).await?;
                *place = Some(self.folder.join(self.plain(name)?));
            }
        }
        if found.disk.is_none() && found.kernel.is_none() {
            return Err(none("", "it has neither a disk nor a kernel to boot from"));
        }
        if found.initrd.is_some() && found.kernel.is_none() {
            return Err(none("initrd", "there is no kernel to go with it"));
        }
        Ok(found)
    }

    /// The name of a volume of this pool, by itself or as a path in its folder.
    fn plain<'a>(&self, name: &'a str) -> Result<&'a str, ProviderError> {
        let inside = Path::new(name)
            .strip_prefix(&self.folder)
            .ok()
            .and_then(Path::to_str);
        let plain = inside.unwrap_or(name);
        let is_plain = !plain.is_empty() && !plain.starts_with(['.', '-']) && !plain.contains('/');
        is_plain
            .then_some(plain)
            .ok_or_else(|| none(name, "it is no volume of the pool of images"))
    }

    async fn volume(&self, virsh: &Virsh, name: &str) -> Result<String, ProviderError> {
        let plain = self.plain(name)?;
        let output = virsh
            .run(&["vol-dumpxml", "--pool", &self.name, plain], None)
            .await?;
        if !output.is_success() && NO_VOLUME.iter().any(|text| output.stderr.contains(text)) {
            return Err(none(name, "it is no volume of the pool of images"));
        }
        said(&output)
    }

    async fn layers(&self, virsh: &Virsh, name: &str) -> Result<Disk, ProviderError> {
        let (mut next, mut top) = (name.to_owned(), None);
        for _ in 0..DEEPEST {
            let xml = self.volume(virsh, &next).await?;
            let (own, below) = xml.split_once("<backingStore>").unwrap_or((&xml, ""));
            let format = ["qcow2", "raw"]
                .into_iter()
                .find(|format| own.contains(&format!("<format type='{format}'/>")))
                .ok_or_else(|| none(name, "its format is neither qcow2 nor raw"))?;
            let capacity = text_of(own, "capacity").and_then(|text| text.parse().ok());
            top.get_or_insert(Disk {
                path: self.folder.join(self.plain(&next)?),
                format: format.to_owned(),
                bytes: capacity.unwrap_or_default(),
            });
            match text_of(below, "path") {
                Some(path) => next = path,
                None => return top.ok_or_else(|| failed("it has no layers".to_owned())),
            }
        }
        Err(none(name, "it has too many layers"))
    }
}
