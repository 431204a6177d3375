//! What is ours on this machine, and which engines there are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use barelm::llm::simd;

use super::Check;
use crate::cache;
use crate::compare::found;
use crate::compare::process::{EngineCommand, Patience, Process, Trouble};
use crate::compare::registry::{Known, known};
use crate::model_file::ModelFile;

/// Where things are looked for.
#[derive(Clone, Debug)]
pub struct Places {
    /// Folders of engines' programs, the first that has one counts.
    pub engines: Vec<PathBuf>,
    /// The folder of the reference model.
    pub cache: PathBuf,
    /// Folders of the system's programs.
    pub programs: Vec<PathBuf>,
}

impl Places {
    /// Those of this process.
    pub fn here(engines: Vec<PathBuf>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Places { engines, cache: cache::folder(), programs: std::env::split_paths(&path).collect() }
    }
}

/// How long an engine may take for its greeting.
const PATIENCE: Duration = Duration::from_secs(60);
/// What boots the kernel.
const EMULATOR: &str = "qemu-system-aarch64";

/// All checks of what is installed.
pub fn examine(places: &Places, tell: &mut dyn FnMut(Check)) {
    tell(kernels());
    tell(model(&places.cache.join(cache::MODEL_FILE)));
    tell(emulator(&places.programs));
    for known in known() {
        tell(engine(known, &places.engines));
    }
    for line in found::elsewhere() {
        tell(Check::fine("elsewhere", line));
    }
}

/// Every table computes the scalar table's bits.
fn kernels() -> Check {
    let mut wrong = Vec::new();
    let mut checks = 0;
    let right = simd::self_test(|table, what, equal| {
        checks += 1;
        if !equal {
            wrong.push(format!("{table} {what}"));
        }
    });
    let best = simd::best().name;
    match right {
        true if best == "scalar" => Check::note(
            "kernels",
            "scalar only",
            "none: this processor has no instruction set that there are kernels for",
        ),
        true => {
            let names: Vec<_> = simd::available().map(|kernels| kernels.name).collect();
            Check::fine(
                "kernels",
                format!("{best} of {}; {checks} checks, all equal to the scalar table", names.join(", ")),
            )
        }
        false => Check::fault(
            "kernels",
            format!("not the scalar table's bits: {}", wrong.join(", ")),
            "use --kernels scalar, and report it with the processor's name: it is a fault of ours or the processor's",
        ),
    }
}

/// The reference model is there, and whole.
fn model(path: &Path) -> Check {
    if !path.exists() {
        return Check::note(
            "model",
            format!("{} is missing", path.display()),
            "cargo xtask setup, or give a GGUF file of yours",
        );
    }
    match ModelFile::open(path).and_then(|file| file.parse().map(|gguf| gguf.tensor_count())) {
        Ok(tensors) => Check::fine("model", format!("{}, {tensors} tensors", path.display())),
        Err(why) => Check::fault("model", why.to_string(), "remove the file and run cargo xtask setup"),
    }
}

/// What boots the kernel on this machine.
fn emulator(programs: &[PathBuf]) -> Check {
    let Some(program) = programs.iter().map(|folder| folder.join(EMULATOR)).find(|program| program.is_file())
    else {
        return Check::note("QEMU", format!("{EMULATOR} is missing"), "cargo xtask setup");
    };
    let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    match text.lines().next() {
        Some(version) => Check::fine("QEMU", version),
        None => {
            Check::note("QEMU", format!("{} does not say its version", program.display()), "install it again")
        }
    }
}

/// An engine's greeting.
fn engine(known: &Known, folders: &[PathBuf]) -> Check {
    let of = known.name.as_str();
    let Some(program) = known.installed(folders) else {
        return Check::note(of, "not built", known.how_to_get());
    };
    let command = EngineCommand { program, arguments: known.arguments.iter().map(Into::into).collect() };
    match Process::start(&command, Patience { greeting: PATIENCE, ..Patience::default() }) {
        Ok(engine) => {
            let hello = engine.hello();
            let found = format!("{} {} on the {}", hello.engine, hello.version, hello.device);
            match &hello.crippled {
                None => Check::fine(of, found),
                Some(why) => Check::note(
                    of,
                    format!("{found}, crippled: {why}"),
                    format!("{}: crippled builds get no ratios", known.build),
                ),
            }
        }
        Err(Trouble::Unavailable(why)) => {
            Check::note(of, format!("unavailable: {why}"), "none, if that is no surprise")
        }
        Err(why) => Check::fault(of, why.to_string(), format!("build it again: {}", known.build)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn written(folder: &Path, name: &str, text: &str) {
        // Written by a process of its own: what is open for writing here would be so in the children that other tests start at
        // that moment, and a file that anybody writes to cannot be run.
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(folder.join(name)).stdin(Stdio::piped());
        let mut install = install.spawn().unwrap();
        std::io::Write::write_all(&mut install.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
    }

    #[test]
    fn tables_of_this_machine_are_right() {
        assert_ne!(kernels().verdict, Verdict::Fault);
    }

    #[test]
    fn a_missing_model_is_a_note_and_a_broken_one_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(cache::MODEL_FILE);
        assert!(model(&path).remedy.contains("cargo xtask setup"));
        std::fs::write(&path, b"GGUF but no more").unwrap();
        assert_eq!(model(&path).verdict, Verdict::Fault);
        std::fs::write(&path, include_bytes!("../../../kernel/assets/tiny.gguf")).unwrap();
        assert_eq!(model(&path).verdict, Verdict::Fine);
    }

    #[test]
    fn programs_are_asked_who_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let places = [folder.path().to_owned()];
        assert!(emulator(&places).remedy.contains("setup"));
        written(folder.path(), EMULATOR, "#!/bin/sh\necho emulator 7\n");
        assert_eq!(emulator(&places).found, "emulator 7");

        let candle = Known::find("candle").unwrap();
        assert!(engine(candle, &places).remedy.contains(&candle.build));
        let says = |text: &str| {
            written(folder.path(), candle.program, &format!("#!/bin/sh\n{text}\n"));
            engine(candle, &places)
        };
        let hello = |more: &str| {
            let hello =
                barelm_protocol::Hello { engine: "x".into(), version: "1".into(), ..Default::default() };
            let line = serde_json::to_string(&barelm_protocol::Reply::Hello(hello)).unwrap();
            format!("echo '{}{more}}}'; cat > /dev/null", line.trim_end_matches('}'))
        };
        assert_eq!(says(&hello("")).verdict, Verdict::Fine);
        assert!(says(&hello(r#","crippled":"SSE2 only""#)).found.contains("SSE2 only"));
        assert_eq!(says(&hello(r#","unavailable":"no GPU""#)).verdict, Verdict::Note);
        assert_eq!(says("echo garbage").verdict, Verdict::Fault);
        assert_eq!(says("exit 127").verdict, Verdict::Note);
    }
}
