//! What a guest is told at its start: the files of cloud-init's `NoCloud` source, and the same by the firmware.

use std::{io, path::Path};

use super::folder::{firmware_in, seed_in, write_whole};
use crate::providers::{
    Guest,
    cloud_init::{FIRMWARE, firmware, meta_data, user_data},
};

/// Writes them all anew; none is ever seen half.
pub(super) fn write(folder: &Path, guest: &Guest) -> io::Result<()> {
    let seed = seed_in(folder);
    write_whole(&seed.join("meta-data"), meta_data(guest).as_bytes())?;
    write_whole(&seed.join("user-data"), user_data(guest).as_bytes())?;
    for (name, text) in FIRMWARE.iter().zip(firmware(guest)) {
        write_whole(&firmware_in(folder).join(name), text.as_bytes())?;
    }
    Ok(())
}
