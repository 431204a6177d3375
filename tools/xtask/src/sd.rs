//! An image of an SD card: a partition table with one FAT32 partition, as Raspberry Pi firmware wants it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use crate::Failure;

const SECTOR: u64 = 512;
/// Where the partition begins: at 1 MiB, as every partitioning tool has it.
const FIRST: u64 = 2048;
/// The smallest partition: below some 33 MiB FAT32 has too few clusters to be FAT32.
const SMALLEST: u64 = 96 << 20;
/// FAT32 with its addresses by sectors (LBA).
const TYPE: u8 = 0x0c;

/// Writes `card` with the files of `folder` in it; gives its size in bytes.
pub fn write(card: &Path, folder: &Path) -> Result<u64, Failure> {
    write_card(card, folder).map_err(|error| format!("{}: {error}", card.display()))
}

fn write_card(card: &Path, folder: &Path) -> io::Result<u64> {
    let mut content = 0;
    for entry in fs::read_dir(folder)? {
        content += entry?.metadata()?.len();
    }
    // A sixteenth and 16 MiB more, for the tables and for firmware that is added later.
    let bytes = (content + content / 16 + (16 << 20)).max(SMALLEST).next_multiple_of(1 << 20);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(card)?;
    file.set_len(FIRST * SECTOR + bytes)?;
    let sectors = u32::try_from(bytes / SECTOR)
        .map_err(|_| io::Error::other("FAT32 holds 2 TiB at most; choose a smaller model"))?;
    file.write_all(&partition_table(FIRST as u32, sectors))?;

    let mut partition = Partition { file, start: FIRST * SECTOR, length: bytes, at: 0 };
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).volume_label(*b"BARELM     ");
    fatfs::format_volume(&mut partition, options)?;
    let system = FileSystem::new(partition, FsOptions::new())?;
    let root = system.root_dir();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut from = File::open(entry.path())?;
        if from.metadata()?.len() > u64::from(u32::MAX) {
            return Err(io::Error::other(format!("{name}: FAT32 holds files below 4 GiB only")));
        }
        let mut to = io::BufWriter::with_capacity(1 << 20, root.create_file(&name)?);
        io::copy(&mut from, &mut to)?;
        to.flush()?;
    }
    drop(root);
    system.unmount()?;
    Ok(FIRST * SECTOR + bytes)
}

/// The first sector: one partition.
fn partition_table(first: u32, sectors: u32) -> [u8; SECTOR as usize] {
    let mut table = [0; SECTOR as usize];
    let entry = &mut table[446..462];
    // Addresses by cylinder are out of range: 1023/254/63.
    entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[4] = TYPE;
    entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// A part of a file as a file of its own.
struct Partition {
    file: File,
    start: u64,
    length: u64,
    at: u64,
}

impl Partition {
    /// Goes to the present place; gives how many of `wanted` bytes are left there.
    fn go(&mut self, wanted: usize) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.start + self.at))?;
        let left = self.length.saturating_sub(self.at);
        Ok(usize::try_from(left).map_or(wanted, |left| left.min(wanted)))
    }
}

impl Read for Partition {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.go(buffer.len())?;
        let count = self.file.read(&mut buffer[..room])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Partition {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.go(bytes.len())?;
        let count = self.file.write(&bytes[..room])?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Partition {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cards_partition_holds_the_folders_files() {
        let work = tempfile::tempdir().unwrap();
        let folder = work.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let model: Vec<u8> = (0..3_000_001u32).map(|i| ((i * 7) >> 3) as u8).collect();
        fs::write(folder.join("config.txt"), "kernel=kernel8.img\n").unwrap();
        fs::write(folder.join("model.gguf"), &model).unwrap();
        fs::write(folder.join("bcm2710-rpi-3-b.dtb"), "tree").unwrap();
        let card = work.path().join("card.img");
        let bytes = write(&card, &folder).unwrap();
        assert_eq!(fs::metadata(&card).unwrap().len(), bytes);

        let mut file = File::open(&card).unwrap();
        let mut table = [0; 512];
        file.read_exact(&mut table).unwrap();
        assert_eq!(table[510..], [0x55, 0xaa]);
        let number = |at: usize| u64::from(u32::from_le_bytes(table[at..at + 4].try_into().unwrap()));
        let (first, sectors) = (number(454), number(458));
        assert_eq!((table[450], (first + sectors) * SECTOR), (TYPE, bytes));
        let partition = Partition { file, start: first * SECTOR, length: sectors * SECTOR, at: 0 };
        let system = FileSystem::new(partition, FsOptions::new().update_accessed_date(false)).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let mut bytes = Vec::new();
            let name = entry.file_name().into_string().unwrap();
            system.root_dir().open_file(&name).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, fs::read(entry.path()).unwrap(), "{name}");
        }
    }
}
