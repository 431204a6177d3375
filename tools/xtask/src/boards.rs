//! `cargo xtask image --board …`: the folder that goes onto an SD card, and a card image of it.
//!
//! The folder has everything but the board's firmware, which is Raspberry Pi's own and is named in its README.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::image::{self, Build, Image};
use crate::{Failure, model, sd};

/// What to make besides the raw image.
#[derive(Args, Clone, Debug, Default)]
pub struct Arguments {
    /// Leave out benchmarks and vector kernels other than NEON's: below 400 KiB besides the model in it.
    #[arg(long)]
    small: bool,
    /// Make the folder for this board's SD card.
    #[arg(long)]
    board: Option<Board>,
    /// GGUF file to put on the card (default: SmolLM2-135M-Instruct, downloaded once).
    #[arg(long, value_name = "FILE", requires = "board", conflicts_with = "no_model")]
    model: Option<PathBuf>,
    /// Put no model on the card: the small one inside the image answers.
    #[arg(long, requires = "board")]
    no_model: bool,
    /// What the image is to do, as boot words.
    #[arg(long, default_value = DEFAULT_WORDS, value_name = "WORDS", requires = "board")]
    words: String,
    /// Folder with firmware files: those that the board needs are copied along.
    #[arg(long, value_name = "FOLDER", requires = "board")]
    firmware: Option<PathBuf>,
    /// Also write a card image: one FAT32 partition with the folder's files.
    #[arg(long, requires = "board")]
    sd: bool,
}

/// A question, then the shell.
const DEFAULT_WORDS: &str = "suite=off tokens=48 shell=1";

/// The boards there is a folder for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Board {
    /// Raspberry Pi 3 Model B, B+.
    Rpi3,
    /// Raspberry Pi 4 Model B.
    Rpi4,
    /// Raspberry Pi 5.
    Rpi5,
}

impl Board {
    fn name(self) -> &'static str {
        match self {
            Self::Rpi3 => "rpi3",
            Self::Rpi4 => "rpi4",
            Self::Rpi5 => "rpi5",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Rpi3 => "Raspberry Pi 3",
            Self::Rpi4 => "Raspberry Pi 4",
            Self::Rpi5 => "Raspberry Pi 5",
        }
    }

    /// Firmware files that the board loads from the card, with what each is.
    fn firmware(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rpi3 => &[
                ("bootcode.bin", "first stage"),
                ("start.elf", "firmware"),
                ("fixup.dat", "memory layout of the firmware"),
                ("bcm2710-rpi-3-b.dtb", "device tree; bcm2710-rpi-3-b-plus.dtb for a 3 B+"),
            ],
            Self::Rpi4 => &[
                ("start4.elf", "firmware"),
                ("fixup4.dat", "memory layout of the firmware"),
                ("bcm2711-rpi-4-b.dtb", "device tree"),
            ],
            Self::Rpi5 => {
                &[("bcm2712-rpi-5-b.dtb", "device tree; the firmware itself is in the board's flash")]
            }
        }
    }

    /// Where the serial cable goes.
    fn wiring(self) -> &'static str {
        match self {
            Self::Rpi3 | Self::Rpi4 => {
                "header pin 6 (ground), pin 8 (GPIO 14, the board sends), pin 10 (GPIO 15, the board receives)"
            }
            Self::Rpi5 => "the three-pin UART connector between the two HDMI sockets",
        }
    }

    /// The firmware's settings.
    fn config(self, model: bool) -> String {
        let mut lines = vec![
            "# BareLM on bare metal: https://www.raspberrypi.com/documentation/computers/config_txt.html"
                .to_string(),
            "arm_64bit=1".to_string(),
            "kernel=kernel8.img".to_string(),
            // The console: without it a Raspberry Pi 3's mini-UART has a clock that changes.
            "enable_uart=1".to_string(),
            // The firmware's own words on the same line, so that a silent board can be told from a silent image.
            "uart_2ndstage=1".to_string(),
            "disable_splash=1".to_string(),
        ];
        if model {
            lines.push("initramfs model.gguf followkernel".to_string());
        }
        if self == Self::Rpi5 {
            // No second system to choose: do not look for one.
            lines.push("os_check=0".to_string());
        }
        lines.join("\n") + "\n"
    }

    fn readme(self, words: &str) -> String {
        let list: Vec<_> =
            self.firmware().iter().map(|(name, what)| format!("  {name:22} {what}\n")).collect();
        format!(
            "BareLM for {}\n\n\
             This folder is the first (FAT) partition of an SD card, but for the board's firmware, which is Raspberry\n\
             Pi's (LICENCE.broadcom) and is not passed on here. Add from the folder `boot` of\n\
             https://github.com/raspberrypi/firmware (Debian's raspi-firmware has all but the .dtb in\n\
             /usr/lib/raspi-firmware):\n\n{}\n\
             Serial console, 115200 baud, 8 bits, no parity, 3.3 V levels: {}.\n\n\
             cmdline.txt says what the image does; its words follow `--`. Now: {words}\n\
             What to expect, and what to do where nothing comes: docs/llm/RASPBERRY_PI.md\n",
            self.title(),
            list.concat(),
            self.wiring(),
        )
    }
}

/// Makes what is asked for, and says where it is.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let image = image::build(&Build { verbose: true, small: arguments.small, ..Default::default() })?;
    println!("{} ({} bytes, from {})", image.raw.display(), image.bytes, image.elf.display());
    let Some(board) = arguments.board else { return Ok(()) };
    let model = match (&arguments.model, arguments.no_model) {
        (_, true) => None,
        (Some(file), _) if !file.is_file() => return Err(format!("{}: no such file", file.display())),
        (Some(file), _) => Some(file.clone()),
        (None, _) => Some(model::fetch()?),
    };
    let folder = crate::target_folder().join("boards").join(board.name());
    let missing =
        fill(&folder, board, &image, model.as_deref(), &arguments.words, arguments.firmware.as_deref())?;
    println!("{}: for the first partition of an SD card", folder.display());
    if arguments.sd {
        let card = folder.with_extension("img");
        let bytes = sd::write(&card, &folder)?;
        println!("{}: {bytes} bytes, for a card of that size or more", card.display());
    }
    if !missing.is_empty() {
        println!("to be added to it (see its README.txt): {}", missing.join(", "));
    }
    Ok(())
}

/// Writes the folder anew; gives the firmware files that it lacks.
fn fill(
    folder: &Path,
    board: Board,
    image: &Image,
    model: Option<&Path>,
    words: &str,
    firmware: Option<&Path>,
) -> Result<Vec<&'static str>, Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(told)?;
    }
    fs::create_dir_all(folder).map_err(told)?;
    let raw = fs::read(&image.raw).map_err(|error| format!("{}: {error}", image.raw.display()))?;
    fs::write(folder.join("kernel8.img"), in_memory(&raw)?).map_err(told)?;
    fs::write(folder.join("config.txt"), board.config(model.is_some())).map_err(told)?;
    let words = if model.is_some() { words.to_string() } else { format!("model=embedded {words}") };
    fs::write(folder.join("cmdline.txt"), format!("-- {words}\n")).map_err(told)?;
    fs::write(folder.join("README.txt"), board.readme(&words)).map_err(told)?;
    if let Some(model) = model {
        fs::copy(model, folder.join("model.gguf"))
            .map_err(|error| format!("{}: {error}", model.display()))?;
    }
    let mut missing = Vec::new();
    for (name, _) in board.firmware() {
        match firmware.map(|from| from.join(name)).filter(|file| file.is_file()) {
            Some(file) => _ = fs::copy(&file, folder.join(name)).map_err(told)?,
            None => missing.push(*name),
        }
    }
    Ok(missing)
}

/// The image with the zeroes that it clears at its start: firmware puts the model behind the file's end, and that must
/// be behind the image's memory.
fn in_memory(raw: &[u8]) -> Result<Vec<u8>, Failure> {
    let size = raw.get(16..24).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    let size = size.filter(|size| (raw.len() as u64..crate::elf::LARGEST).contains(size));
    let mut whole = raw.to_vec();
    whole.resize(size.ok_or("the image's header has no size: build it again")? as usize, 0);
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_all_but_the_firmware() {
        let work = tempfile::tempdir().unwrap();
        let mut raw = vec![1; 100];
        raw[16..24].copy_from_slice(&4096u64.to_le_bytes());
        let image =
            Image { raw: work.path().join("raw"), elf: work.path().join("elf"), bytes: raw.len() as u64 };
        fs::write(&image.raw, &raw).unwrap();
        let model = work.path().join("some.gguf");
        fs::write(&model, b"GGUF").unwrap();
        let firmware = work.path().join("firmware");
        fs::create_dir(&firmware).unwrap();
        fs::write(firmware.join("start4.elf"), b"start").unwrap();
        let folder = work.path().join("card");
        for board in [Board::Rpi3, Board::Rpi4, Board::Rpi5] {
            let missing = fill(&folder, board, &image, Some(&model), "tokens=3", Some(&firmware)).unwrap();
            let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
            assert_eq!(fs::read(folder.join("kernel8.img")).unwrap().len(), 4096);
            assert!(read("config.txt").contains("\ninitramfs model.gguf followkernel\n"));
            assert!(read("config.txt").contains("\nkernel=kernel8.img\n"));
            assert_eq!(read("cmdline.txt"), "-- tokens=3\n");
            assert_eq!(read("model.gguf"), "GGUF");
            assert_eq!(folder.join("start4.elf").exists(), board == Board::Rpi4);
            assert!(!missing.is_empty() && !missing.contains(&"start4.elf"));
            missing.iter().for_each(|name| assert!(read("README.txt").contains(name)));
        }
        fill(&folder, Board::Rpi3, &image, None, "tokens=3", None).unwrap();
        assert!(!folder.join("model.gguf").exists());
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert!(!read("config.txt").contains("initramfs"));
        assert_eq!(read("cmdline.txt"), "-- model=embedded tokens=3\n");
    }

    #[test]
    fn an_image_without_a_size_is_refused() {
        assert!(in_memory(&[0; 64]).is_err() && in_memory(b"short").is_err());
        let mut raw = vec![0; 64];
        raw[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(in_memory(&raw).is_err());
    }
}
