//! `cargo xtask bundle`: the engines that are built, and a script that compares them, in one archive for a machine
//! without a network.
//!
//! Models are not in it: the script makes one with random weights, or is given files. Nor are the libraries of CUDA and
//! Python's packages, which the other machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::engines::{self, ENGINES};
use crate::toolchain::Toolchain;
use crate::{Failure, files, process};

/// What the archive unpacks to.
const NAME: &str = "barelm-bundle";
/// What is started on the other machine.
const SCRIPT: &str = include_str!("bundle/run.sh");
/// Ours.
const PROGRAMS: [&str; 2] = ["barelm", "lm-rs-bench"];

/// What to pack.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The most that the archive may take, in MiB.
    #[arg(long, value_name = "N", default_value_t = 60)]
    max_mib: u64,
    /// Engines to pack, by name (default: all that are built).
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    engines: Vec<String>,
    /// The archive (default: target/barelm-bundle.tar.gz).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Builds ours, packs it with what is built of the others, and says what takes how much.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    if let Some(name) = arguments.engines.iter().find(|name| engines::Engine::named(name).is_none()) {
        let names: Vec<_> = ENGINES.iter().map(|engine| engine.name).collect();
        return Err(format!("no engine `{name}`; there are {}", names.join(", ")));
    }
    process::run(Toolchain::current().cargo().args(["build", "--release", "--locked", "-p", "barelm-host"]))?;
    let release = crate::target_folder().join("release");
    let mut parts: Vec<Part> = PROGRAMS.iter().map(|program| Part::Program(release.join(program))).collect();
    for engine in ENGINES.iter() {
        if !arguments.engines.is_empty() && !arguments.engines.iter().any(|name| name == engine.name) {
            continue;
        }
        let built: Vec<_> = engine.programs().into_iter().filter(|(program, _)| program.is_file()).collect();
        if built.is_empty() {
            println!(
                "not in the bundle: {} is not built (cargo xtask engines build {})",
                engine.name, engine.name
            );
        }
        for (program, cuda) in built {
            parts.push(match engine.is_python() {
                true => Part::Python { launcher: program, folder: engine.name, cuda },
                false => Part::Program(program),
            });
        }
    }
    let out = arguments.out.clone().unwrap_or_else(|| crate::target_folder().join(format!("{NAME}.tar.gz")));
    let work = crate::target_folder().join(NAME);
    let sizes =
        pack(&parts, &crate::root().join("crates/host/engines"), &work, &out, arguments.max_mib << 20)?;
    for (name, bytes) in sizes {
        println!("{:>7.1} MiB  {name}", bytes as f64 / f64::from(1 << 20));
    }
    println!("{}: unpack it, and start {NAME}/run.sh", out.display());
    Ok(())
}

/// What goes into a bundle.
#[derive(Clone, Debug)]
enum Part {
    /// A program that needs nothing but the system's libraries.
    Program(PathBuf),
    /// An adapter that the other machine's Python runs.
    Python {
        /// The launcher here, for its name.
        launcher: PathBuf,
        /// The adapter's folder.
        folder: &'static str,
        /// Whether it is to compute on a GPU.
        cuda: bool,
    },
}

/// Puts everything into the folder `work`, makes the archive `out` of it, and gives the sizes of both: the archive last.
fn pack(
    parts: &[Part],
    engines: &Path,
    work: &Path,
    out: &Path,
    most: u64,
) -> Result<Vec<(String, u64)>, Failure> {
    let told = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if work.exists() {
        std::fs::remove_dir_all(work).map_err(|error| told(work, error))?;
    }
    let bin = work.join("bin");
    std::fs::create_dir_all(&bin).map_err(|error| told(&bin, error))?;
    for part in parts {
        match part {
            Part::Program(program) => strip(program, &bin.join(program.file_name().unwrap_or_default()))?,
            Part::Python { launcher, folder, cuda } => {
                for needed in [*folder, "protocol/python"] {
                    copy_sources(&engines.join(needed), &work.join("engines").join(needed))?;
                }
                let text = python_launcher(folder, *cuda);
                files::write_program(&bin.join(launcher.file_name().unwrap_or_default()), &text)?;
            }
        }
    }
    files::write_program(&work.join("run.sh"), SCRIPT)?;
    let mut sums = String::new();
    let mut sizes = Vec::new();
    for file in files::below(work, &|_| true)? {
        let bytes = std::fs::read(&file).map_err(|error| told(&file, error))?;
        let name = file.strip_prefix(work).unwrap_or(&file).display().to_string();
        sums += &format!("{}  {name}\n", files::sha256(&bytes));
        sizes.push((name, bytes.len() as u64));
    }
    let sums_file = work.join("SHA256SUMS");
    std::fs::write(&sums_file, sums).map_err(|error| told(&sums_file, error))?;
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| told(folder, error))?;
    }
    let unfinished = out.with_extension("part");
    process::run(
        Command::new("tar")
            .args(["--create", "--gzip", "--sort=name", "--owner=0", "--group=0", "--file"])
            .arg(&unfinished)
            .arg("--directory")
            .arg(work.parent().unwrap_or(Path::new(".")))
            .arg(work.file_name().unwrap_or_default()),
    )?;
    let bytes = std::fs::metadata(&unfinished).map_err(|error| told(&unfinished, error))?.len();
    sizes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    if bytes > most {
        let _ = std::fs::remove_file(&unfinished);
        let largest: Vec<_> =
            sizes.iter().take(4).map(|(name, bytes)| format!("{name} {} MiB", bytes >> 20)).collect();
        return Err(format!(
            "the archive takes {} MiB, more than {}; unpacked the largest are {}: choose with --engines, or give a larger --max-mib",
            bytes.div_ceil(1 << 20),
            most >> 20,
            largest.join(", ")
        ));
    }
    std::fs::rename(&unfinished, out).map_err(|error| told(out, error))?;
    sizes.push(("the archive".into(), bytes));
    Ok(sizes)
}

/// Copies a program without its symbols; with them where it is a script, or there is nothing to take them out.
fn strip(from: &Path, to: &Path) -> Result<(), Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", from.display());
    let is_elf = std::fs::read(from).map_err(told)?.starts_with(b"\x7fELF");
    if is_elf && process::find("strip").is_some() {
        return process::run(Command::new("strip").arg("-o").arg(to).arg(from));
    }
    std::fs::copy(from, to).map(|_| ()).map_err(told)
}

/// Copies the files of an adapter, not what Python left beside them.
fn copy_sources(from: &Path, to: &Path) -> Result<(), Failure> {
    let told = |error: std::io::Error| format!("{}: {error}", from.display());
    std::fs::create_dir_all(to).map_err(told)?;
    for entry in std::fs::read_dir(from).map_err(told)? {
        let path = entry.map_err(told)?.path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap_or_default())).map_err(told)?;
        }
    }
    Ok(())
}

/// The launcher of a Python adapter, for the other machine.
fn python_launcher(folder: &str, cuda: bool) -> String {
    let device = if cuda { " --device cuda" } else { "" };
    format!(
        "#!/bin/sh\nhere=$(cd \"$(dirname \"$0\")\" && pwd)\nexport BARELM=\"${{BARELM:-$here/barelm}}\"\n\
         exec \"${{PYTHON:-python3}}\" -u \"$here/../engines/{folder}/adapter.py\"{device} \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `barelm` that notes what it is told, and a record as it would leave one.
    const NOTES: &str = "#!/bin/sh\n\
        echo \"$*\" >> \"$NOTES\"\n\
        case $1 in\n\
        synth) echo model > \"$2\" ;;\n\
        compare) for a; do [ \"$p\" = --out ] && mkdir -p \"$a\" && echo row >> \"$a/compare.jsonl\"; p=$a; done ;;\n\
        doctor) exit 1 ;;\n\
        esac\n";

    struct Case {
        folder: tempfile::TempDir,
    }

    impl Case {
        /// A bundle of a program that notes, of an engine and of an adapter, unpacked.
        fn new() -> Self {
            let case = Case { folder: tempfile::tempdir().unwrap() };
            for program in ["barelm", "x-cuda-bench"] {
                files::write_program(&case.path(program), NOTES).unwrap();
            }
            std::fs::create_dir_all(case.path("engines/py/__pycache__")).unwrap();
            std::fs::create_dir_all(case.path("engines/protocol/python")).unwrap();
            std::fs::write(case.path("engines/py/adapter.py"), "import sys; print('adapter', *sys.argv[1:])")
                .unwrap();
            case
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn pack(&self, most: u64) -> Result<Vec<(String, u64)>, Failure> {
            let parts = [
                Part::Program(self.path("barelm")),
                Part::Program(self.path("x-cuda-bench")),
                Part::Python { launcher: self.path("py-bench"), folder: "py", cuda: true },
            ];
            pack(&parts, &self.path("engines"), &self.path("work/bundle"), &self.path("b.tar.gz"), most)
        }

        fn unpacked(&self) -> PathBuf {
            let to = self.path("elsewhere");
            std::fs::create_dir_all(&to).unwrap();
            process::run(Command::new("tar").arg("xzf").arg(self.path("b.tar.gz")).arg("-C").arg(&to))
                .unwrap();
            to.join("bundle")
        }
    }

    #[test]
    fn a_bundle_measures_and_goes_on_where_it_was() {
        let case = Case::new();
        let sizes = case.pack(1 << 20).unwrap();
        assert!(sizes.iter().any(|(name, _)| name == "bin/x-cuda-bench"), "{sizes:?}");
        assert!(!sizes.iter().any(|(name, _)| name.contains("__pycache__")), "{sizes:?}");
        let bundle = case.unpacked();
        let notes = case.path("notes");
        let run = || {
            let output = Command::new(bundle.join("run.sh"))
                .env("NOTES", &notes)
                .env("BUDGET", "9m")
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            std::fs::read_to_string(&notes).unwrap()
        };
        let first = run();
        let compare = |notes: &str| {
            notes.lines().filter(|line| line.starts_with("compare")).map(String::from).collect::<Vec<_>>()
        };
        let [command] = &compare(&first)[..] else { panic!("{first}") };
        assert!(command.contains("--engine x-cuda=") && command.contains("--budget 9m"), "{command}");
        assert!(!command.contains("--resume") && first.matches("synth").count() == 2, "{first}");
        let second = run();
        assert!(compare(&second)[1].contains("--resume") && second.matches("synth").count() == 2, "{second}");
        let said = process::read(Command::new(bundle.join("bin/py-bench")).arg("--x")).unwrap();
        assert_eq!(said, "adapter --device cuda --x\n");
    }

    #[test]
    fn a_damaged_bundle_does_not_measure() {
        let case = Case::new();
        case.pack(1 << 20).unwrap();
        let bundle = case.unpacked();
        std::fs::write(bundle.join("engines/py/adapter.py"), "other").unwrap();
        let output = Command::new(bundle.join("run.sh")).env("NOTES", case.path("notes")).output().unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("copy it again"), "{output:?}");
        assert!(!case.path("notes").exists());
    }

    #[test]
    fn one_that_is_too_large_names_the_largest_and_leaves_nothing() {
        let case = Case::new();
        let why = case.pack(100).unwrap_err();
        assert!(why.contains("--engines") && why.contains("barelm"), "{why}");
        assert!(!case.path("b.tar.gz").exists() && !case.path("b.tar.part").exists());
    }
}
