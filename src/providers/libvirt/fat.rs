//! A small disk with files in it, in the FAT12 of Microsoft's "FAT: General Overview of On-Disk Format" (1.03).

/// Bytes of a sector, which is a cluster too.
const SECTOR: usize = 512;
/// Sectors of the disk: 1 MiB, well below the 4085 clusters where FAT16 begins.
const SECTORS: u16 = 2048;
/// Sectors of each of the two tables: a byte and a half for a cluster.
const TABLE: u16 = 7;
const ROOT_ENTRIES: u16 = 16;
/// The sector of the first cluster, which has number 2.
const DATA: usize = 1 + 2 * TABLE as usize + ROOT_ENTRIES as usize * ENTRY / SECTOR;
const ENTRY: usize = 32;
/// Letters of a long name that one entry has.
const LONG: usize = 13;
const LAST: u16 = 0xfff;

/// A disk labelled `label` with `files`, each of a name of at most 13 ASCII letters. `None` when they do not fit.
pub(super) fn disk(label: &str, files: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    let mut disk = vec![0; usize::from(SECTORS) * SECTOR];
    let mut name = [b' '; 11];
    name.get_mut(..label.len())?
        .copy_from_slice(label.as_bytes());
    boot_sector(&mut disk, &name);
    let mut links = vec![0xff8, LAST];
    let mut root = vec![entry(&name, 0x08, 0, 0)];
    for (number, (long, bytes)) in files.iter().enumerate() {
        let short = short_name(number)?;
        root.push(long_entry(long, &short)?);
        let first = links.len();
        root.push(entry(
            &short,
            0x20,
            if bytes.is_empty() {
                0
            } else {
                u16::try_from(first).ok()?
            },
            u32::try_from(bytes.len()).ok()?,
        ));
        for (at, piece) in bytes.chunks(SECTOR).enumerate() {
            let cluster = first + at;
            let begin = (DATA + cluster - 2) * SECTOR;
            disk.get_mut(begin..begin + piece.len())?
                .copy_from_slice(piece);
            links.push(u16::try_from(cluster + 1).ok()?);
        }
        if !bytes.is_empty() {
            *links.last_mut()? = LAST;
        }
    }
    for table in 0..2 {
        let begin = SECTOR * (1 + table * usize::from(TABLE));
        write_table(&mut disk[begin..], &links);
    }
    let begin = SECTOR * (1 + 2 * usize::from(TABLE));
    let root = root.concat();
    (root.len() <= usize::from(ROOT_ENTRIES) * ENTRY).then(|| {
        disk[begin..begin + root.len()].copy_from_slice(&root);
        disk
    })
}

fn boot_sector(disk: &mut [u8], label: &[u8; 11]) {
    disk[..11].copy_from_slice(b"\xeb\x3c\x90mainwebs");
    let sector = u16::try_from(SECTOR).unwrap_or_default();
    disk[11..13].copy_from_slice(&sector.to_le_bytes());
    // One sector of a cluster, one before the tables, two tables.
    disk[13..17].copy_from_slice(&[1, 1, 0, 2]);
    disk[17..19].copy_from_slice(&ROOT_ENTRIES.to_le_bytes());
    disk[19..21].copy_from_slice(&SECTORS.to_le_bytes());
    disk[21] = 0xf8;
    disk[22..24].copy_from_slice(&TABLE.to_le_bytes());
    // A geometry, which nobody needs and some want to see.
    disk[24..28].copy_from_slice(&[32, 0, 2, 0]);
    disk[36..39].copy_from_slice(&[0x80, 0, 0x29]);
    disk[43..54].copy_from_slice(label);
    disk[54..62].copy_from_slice(b"FAT12   ");
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// Twelve bits for each cluster, two in three bytes.
fn write_table(table: &mut [u8], links: &[u16]) {
    for (number, link) in links.iter().enumerate() {
        let at = number * 3 / 2;
        let shift = if number.is_multiple_of(2) { 0 } else { 4 };
        let [low, high] = (link << shift).to_le_bytes();
        table[at] |= low;
        table[at + 1] |= high;
    }
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, bytes: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    // The first day there is; a day 0 is none.
    entry[16..18].copy_from_slice(&0x21_u16.to_le_bytes());
    entry[24..26].copy_from_slice(&0x21_u16.to_le_bytes());
    entry[26..28].copy_from_slice(&cluster.to_le_bytes());
    entry[28..].copy_from_slice(&bytes.to_le_bytes());
    entry
}

fn short_name(number: usize) -> Option<[u8; 11]> {
    format!("FILE{number:<7}").into_bytes().try_into().ok()
}

/// The entry before a short one with the name that is seen.
fn long_entry(name: &str, short: &[u8; 11]) -> Option<[u8; ENTRY]> {
    if name.len() > LONG || !name.is_ascii() {
        return None;
    }
    let sum = short
        .iter()
        .fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut entry = [0; ENTRY];
    // The last of the name's entries, and the first.
    entry[0] = 0x41;
    entry[11] = 0x0f;
    entry[13] = sum;
    let places = (1..11)
        .step_by(2)
        .chain((14..26).step_by(2))
        .chain([28, 30]);
    let letters = name.bytes().map(u16::from).chain([0]);
    let letters = letters.chain(std::iter::repeat(0xffff));
    for (place, letter) in places.zip(letters) {
        entry[place..place + 2].copy_from_slice(&letter.to_le_bytes());
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_no_disk() {
        let whole = disk("cidata", &[("meta-data", b"a"), ("user-data", b"b")]).unwrap();
        assert_eq!(whole.len(), 1 << 20);
        assert!(disk("cidata", &[("user-data", &vec![0; 1 << 20])]).is_none());
        assert!(disk("cidata", &[("a-name-that-is-long", b"")]).is_none());
    }

    #[test]
    fn a_file_of_several_clusters_is_one_chain() {
        let bytes = vec![7; 3 * SECTOR - 1];
        let whole = disk("cidata", &[("meta-data", b"a"), ("user-data", &bytes)]).unwrap();
        let table = &whole[SECTOR..];
        let link = |number: usize| {
            let two = u16::from_le_bytes([table[number * 3 / 2], table[number * 3 / 2 + 1]]);
            if number.is_multiple_of(2) {
                two & 0xfff
            } else {
                two >> 4
            }
        };
        assert_eq!([2, 3, 4, 5, 6].map(link), [LAST, 4, 5, LAST, 0]);
        assert_eq!(whole[(DATA + 1) * SECTOR..][..bytes.len()], bytes);
    }
}
