//! Programs from the system's package manager.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, process};

/// A program that some of our commands need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Emulates whole machines.
    QemuSystem,
    /// Emulates the CPU for programs of another architecture.
    QemuUser,
    /// Compiler and C library for Linux on AArch64: links the NEON tests.
    CrossCompiler,
    /// Client of the Python package index: downloads the model.
    Pip,
    /// The distribution's own Rust compiler, its sources and a linker: where rustup has no bare-metal target.
    RustCompiler,
    /// Compiles the engines of other projects.
    CCompiler,
    /// Builds them, with make.
    CMake,
    /// Reads their headers for the bindings.
    LibClang,
}

/// Where the cross compiler's C library lies.
pub const CROSS_ROOT: &str = "/usr/aarch64-linux-gnu";

impl Tool {
    /// What it is, in a plan.
    pub fn name(self) -> &'static str {
        match self {
            Self::QemuSystem => "QEMU, machine emulator for AArch64",
            Self::QemuUser => "QEMU, user-mode emulator",
            Self::CrossCompiler => "cross compiler and C library for Linux on AArch64",
            Self::Pip => "pip, client of the Python package index",
            Self::RustCompiler => "the distribution's Rust compiler, its library's sources and lld",
            Self::CCompiler => "C++ compiler, for llama.cpp",
            Self::CMake => "CMake and make, for llama.cpp",
            Self::LibClang => "libclang, for llama.cpp's bindings",
        }
    }

    /// Megabytes to download, about, with what it depends on.
    pub fn megabytes(self) -> u64 {
        match self {
            Self::QemuSystem => 25,
            Self::QemuUser => 13,
            Self::CrossCompiler => 50,
            Self::Pip => 5,
            Self::RustCompiler => 180,
            Self::CCompiler => 60,
            Self::CMake => 15,
            Self::LibClang => 100,
        }
    }

    /// Whether this machine has it.
    pub fn present(self) -> bool {
        match self {
            Self::QemuSystem => process::find(crate::guest::QEMU).is_some(),
            Self::QemuUser => process::find("qemu-aarch64").is_some(),
            Self::CrossCompiler => {
                process::find("aarch64-linux-gnu-gcc").is_some()
                    && Path::new(CROSS_ROOT).join("lib/libc.so.6").exists()
            }
            Self::Pip => crate::model::client().is_some(),
            Self::RustCompiler => {
                Path::new("/usr/bin/rustc").exists()
                    && Path::new("/usr/bin/cargo").exists()
                    && process::find("lld").is_some()
                    && crate::debian_rust::library_sources().is_some()
            }
            Self::CCompiler => ["c++", "g++", "clang++"].iter().any(|name| process::find(name).is_some()),
            Self::CMake => ["cmake", "make"].iter().all(|name| process::find(name).is_some()),
            Self::LibClang => library_folders().iter().any(|folder| holds_libclang(folder)),
        }
    }

    /// Its packages; none where the manager's systems do not have or need it.
    fn packages(self, manager: Manager) -> &'static [&'static str] {
        match (self, manager) {
            (Self::QemuSystem, Manager::Apt) => &["qemu-system-arm"],
            (Self::QemuSystem, Manager::Dnf) => &["qemu-system-aarch64"],
            (Self::QemuSystem, Manager::Brew) => &["qemu"],
            (Self::QemuUser, Manager::Apt | Manager::Dnf) => &["qemu-user"],
            (Self::CrossCompiler, Manager::Apt) => &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
            (Self::Pip, Manager::Apt | Manager::Dnf) => &["python3-pip"],
            (Self::Pip, Manager::Brew) => &["python"],
            (Self::CCompiler, Manager::Apt) => &["g++"],
            (Self::CCompiler, Manager::Dnf) => &["gcc-c++"],
            (Self::CMake, Manager::Apt | Manager::Dnf) => &["cmake", "make"],
            (Self::CMake, Manager::Brew) => &["cmake"],
            (Self::LibClang, Manager::Apt) => &["libclang-dev"],
            (Self::LibClang, Manager::Dnf) => &["clang-devel"],
            (Self::LibClang, Manager::Brew) => &["llvm"],
            (Self::RustCompiler, Manager::Apt) => &["rustc-web", "cargo-web", "rust-web-src", "lld"],
            _ => &[],
        }
    }
}

/// Where libclang may lie: what the user names, then the places of the known systems.
fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LIBCLANG_PATH").into_iter().map(PathBuf::from).collect();
    let fixed = [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/opt/homebrew/opt/llvm/lib",
        "/usr/local/opt/llvm/lib",
        "/Library/Developer/CommandLineTools/usr/lib",
        "/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib",
    ];
    folders.extend(fixed.map(PathBuf::from));
    // Debian's llvm-14/lib, Fedora's llvm19/lib64, and the folder of an architecture.
    for parent in ["/usr/lib", "/usr/lib64"] {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("llvm") {
                folders.extend(["lib", "lib64"].map(|lib| entry.path().join(lib)));
            } else if name.ends_with("-linux-gnu") {
                folders.push(entry.path());
            }
        }
    }
    folders
}

/// Whether there is a `libclang.so`, `libclang-14.so.1` or `libclang.dylib`; `libclang-cpp` is another library.
fn holds_libclang(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).any(|name| is_libclang(&name))
}

fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else { return false };
    let rest = rest.trim_start_matches(|c: char| c == '-' || c == '.' || c.is_ascii_digit());
    rest == "so" || rest.starts_with("so.") || rest == "dylib"
}

/// A package manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Debian, Ubuntu.
    Apt,
    /// Fedora.
    Dnf,
    /// macOS.
    Brew,
}

impl Manager {
    const ALL: [Self; 3] = [Self::Apt, Self::Dnf, Self::Brew];

    /// This machine's.
    pub fn detect() -> Option<Self> {
        Self::ALL.into_iter().find(|manager| process::find(manager.program()).is_some())
    }

    fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
            Self::Brew => "brew",
        }
    }

    /// Whether installing takes root's rights.
    pub fn needs_root(self) -> bool {
        self != Self::Brew
    }

    /// Whether it has packages for `tool`.
    pub fn has(self, tool: Tool) -> bool {
        !tool.packages(self).is_empty()
    }

    /// The line a person types to install `tools`; `None` if there is nothing to install.
    pub fn line(self, tools: &[Tool]) -> Option<String> {
        let packages: Vec<_> = tools.iter().flat_map(|tool| tool.packages(self)).copied().collect();
        if packages.is_empty() {
            return None;
        }
        let packages = packages.join(" ");
        Some(match self {
            Self::Apt => {
                format!("sudo apt-get update && sudo apt-get install --no-install-recommends {packages}")
            }
            Self::Dnf => format!("sudo dnf install {packages}"),
            Self::Brew => format!("brew install {packages}"),
        })
    }

    /// Installs `tools`; with sudo if `sudo`.
    pub fn install(self, tools: &[Tool], sudo: bool) -> Result<(), Failure> {
        let command = |words: &[&str]| {
            let words: Vec<_> =
                if sudo { ["sudo"].iter().chain(words).collect() } else { words.iter().collect() };
            let mut command = process::command(words[0]);
            command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        if self == Self::Apt {
            run(&mut command(&["apt-get", "update", "-qq"]))?;
        }
        let mut install = match self {
            Self::Apt => command(&["apt-get", "install", "-y", "-qq", "--no-install-recommends"]),
            Self::Dnf => command(&["dnf", "install", "-y"]),
            Self::Brew => command(&["brew", "install"]),
        };
        run(install.args(tools.iter().flat_map(|tool| tool.packages(self))))
    }
}

/// Runs a command that is shown first and whose output is shown if it fails.
fn run(command: &mut Command) -> Result<(), Failure> {
    println!("{}", process::shown(command));
    let spinner = crate::progress::spinner("installing packages");
    let result = process::read(command);
    spinner.finish_and_clear();
    result.map(|_| ())
}

/// How to install `tools` by hand, a line for each manager.
pub fn lines(tools: &[Tool]) -> String {
    Manager::ALL
        .iter()
        .filter_map(|manager| manager.line(tools))
        .map(|line| format!("\n    {line}"))
        .collect()
}

/// Whether we have root's rights.
pub fn is_root() -> bool {
    process::read(process::command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_known_by_its_name() {
        for name in
            ["libclang.so", "libclang.so.1", "libclang-14.so.13", "libclang-14.so.14.0.6", "libclang.dylib"]
        {
            assert!(is_libclang(name), "{name}");
        }
        for name in ["libclang-cpp.so.14", "libclangAST.a", "libLLVM.so", "libclang.a"] {
            assert!(!is_libclang(name), "{name}");
        }
    }

    #[test]
    fn every_manager_says_what_to_type() {
        let tools = [Tool::QemuSystem, Tool::CrossCompiler];
        assert_eq!(
            Manager::Apt.line(&tools).unwrap(),
            "sudo apt-get update && sudo apt-get install --no-install-recommends \
             qemu-system-arm gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
        );
        assert_eq!(Manager::Dnf.line(&tools).unwrap(), "sudo dnf install qemu-system-aarch64");
        assert_eq!(Manager::Brew.line(&tools).unwrap(), "brew install qemu");
        assert_eq!(Manager::Brew.line(&[Tool::CrossCompiler]), None);
        assert_eq!(lines(&[Tool::RustCompiler]).lines().count(), 2, "an empty line and apt's");
    }
}
