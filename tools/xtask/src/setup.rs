//! `cargo xtask setup`: what is missing, what it would take to get it, and then getting it.

use std::process::ExitCode;

use clap::Args;

use crate::packages::{self, Manager, Tool};
use crate::toolchain::{BARE_METAL, LINUX, Toolchain};
use crate::{Failure, debian_rust, device_trees, model, process};

/// How to set up.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Arguments {
    /// Only list what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Also what building the engines of other projects needs, for `cargo xtask versus`.
    #[arg(long)]
    engines: bool,
    /// Install packages even where that asks for a password (by sudo).
    #[arg(long)]
    yes: bool,
}

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program.
    Tool(Tool),
    /// A compiler for this target.
    Target(&'static str),
    /// The reference model.
    Model,
    /// Real boards' device trees.
    DeviceTrees,
}

/// What all commands together need.
pub const EVERYTHING: [Need; 7] = [
    Need::Target(BARE_METAL),
    Need::Target(LINUX),
    Need::Tool(Tool::QemuSystem),
    Need::Tool(Tool::QemuUser),
    Need::Tool(Tool::CrossCompiler),
    Need::Model,
    Need::DeviceTrees,
];

/// What building the engines of other projects needs.
pub const ENGINES: [Need; 3] =
    [Need::Tool(Tool::CCompiler), Need::Tool(Tool::CMake), Need::Tool(Tool::LibClang)];

/// What building and booting the image needs, the model aside.
pub const BOOTING: [Need; 2] = [Need::Target(BARE_METAL), Need::Tool(Tool::QemuSystem)];

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Install programs.
    Packages(Manager, Vec<Tool>),
    /// Programs that no package manager here installs.
    ByHand(Vec<Tool>),
    /// Ask rustup for a target.
    Rustup(&'static str),
    /// Prepare the distribution's compiler for a target.
    DebianRust(&'static str),
    /// Download the model.
    Model,
    /// Download device trees.
    DeviceTrees,
}

impl Action {
    fn needs_root(&self) -> bool {
        match self {
            Self::Packages(manager, _) => manager.needs_root(),
            Self::DebianRust(_) => true,
            Self::ByHand(_) | Self::Rustup(_) | Self::Model | Self::DeviceTrees => false,
        }
    }

    fn megabytes(&self) -> u64 {
        match self {
            Self::Packages(_, tools) | Self::ByHand(tools) => tools.iter().map(|tool| tool.megabytes()).sum(),
            Self::Rustup(target) => {
                if *target == LINUX {
                    30
                } else {
                    10
                }
            }
            Self::DebianRust(target) => {
                if *target == LINUX {
                    35
                } else {
                    0
                }
            }
            Self::Model => model::PACKAGE_BYTES / 1_000_000,
            Self::DeviceTrees => device_trees::MEGABYTES,
        }
    }

    fn what(&self) -> String {
        let names = |tools: &[Tool]| tools.iter().map(|tool| tool.name()).collect::<Vec<_>>().join("; ");
        match self {
            Self::Packages(_, tools) => format!("install {}", names(tools)),
            Self::ByHand(tools) => format!("(by hand) install {}", names(tools)),
            Self::Rustup(target) if Manager::detect() == Some(Manager::Apt) => format!(
                "rustup target add {target}; where that fails, {} instead (about {} MB, root)",
                Tool::RustCompiler.name(),
                Tool::RustCompiler.megabytes()
            ),
            Self::Rustup(target) => format!("rustup target add {target}"),
            Self::DebianRust(target) => format!("prepare the distribution's Rust compiler for {target}"),
            Self::Model => format!("download SmolLM2-135M-Instruct to {}", model::path().display()),
            Self::DeviceTrees => {
                format!("download real boards' device trees to {}", device_trees::folder().display())
            }
        }
    }
}

/// Plans, and does it unless only the plan is wanted.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut needs = EVERYTHING.to_vec();
    if arguments.engines {
        needs.extend(ENGINES);
    }
    let plan = plan(&needs);
    if plan.is_empty() {
        println!("Everything is here. The model: {}", model::path().display());
        return Ok(ExitCode::SUCCESS);
    }
    show(&plan);
    if arguments.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let mut failures = Vec::new();
    for action in plan {
        if let Err(failure) = perform(&action, arguments.yes) {
            eprintln!("{failure}");
            failures.push(action.what());
        }
    }
    if failures.is_empty() {
        println!("Everything is here. The model: {}", model::path().display());
        return Ok(ExitCode::SUCCESS);
    }
    Err(format!("not done: {}", failures.join("; ")))
}

/// Gets what `needs` lists, showing the plan first; for commands that need only a part.
pub fn provide(needs: &[Need]) -> Result<(), Failure> {
    let plan = plan(needs);
    if !plan.is_empty() {
        show(&plan);
    }
    plan.iter().try_for_each(|action| perform(action, false))
}

/// What is missing of `needs`, in the order it is got.
fn plan(needs: &[Need]) -> Vec<Action> {
    let mut tools = Vec::new();
    let mut actions = Vec::new();
    let rustup = process::find("rustup").is_some();
    for need in needs {
        match *need {
            Need::Tool(tool) if !tool.present() => tools.push(tool),
            Need::Target(target) if Toolchain::for_target(target).is_err() => {
                if rustup {
                    actions.push(Action::Rustup(target));
                } else {
                    if !Tool::RustCompiler.present() && !tools.contains(&Tool::RustCompiler) {
                        tools.push(Tool::RustCompiler);
                    }
                    actions.push(Action::DebianRust(target));
                }
            }
            Need::Model if !model::cached() => {
                if !Tool::Pip.present() {
                    tools.push(Tool::Pip);
                }
                actions.push(Action::Model);
            }
            Need::DeviceTrees if !device_trees::present() => actions.push(Action::DeviceTrees),
            Need::Tool(_) | Need::Target(_) | Need::Model | Need::DeviceTrees => {}
        }
    }
    let manager = Manager::detect();
    let (ours, others): (Vec<_>, Vec<_>) =
        tools.into_iter().partition(|tool| manager.is_some_and(|manager| manager.has(*tool)));
    if !others.is_empty() {
        actions.insert(0, Action::ByHand(others));
    }
    if let (Some(manager), false) = (manager, ours.is_empty()) {
        actions.insert(0, Action::Packages(manager, ours));
    }
    actions
}

fn show(plan: &[Action]) {
    println!("To do:");
    for action in plan {
        let root = if action.needs_root() { "root" } else { "no root" };
        println!("  - {} (about {} MB, {root})", action.what(), action.megabytes());
    }
}

/// Does one thing. Root's rights are used where we have them; sudo only when `yes`.
fn perform(action: &Action, yes: bool) -> Result<(), Failure> {
    let root = packages::is_root();
    match action {
        Action::Packages(manager, tools) => {
            if manager.needs_root() && !root && !yes {
                return Err(by_hand(tools, Some(*manager)));
            }
            manager.install(tools, manager.needs_root() && !root)?;
            match tools.iter().find(|tool| !tool.present()) {
                Some(tool) => Err(format!("installed, but still not found: {}", tool.name())),
                None => Ok(()),
            }
        }
        Action::ByHand(tools) => Err(by_hand(tools, None)),
        Action::Rustup(target) => {
            let mut rustup = process::command("rustup");
            let added = process::run(rustup.args(["target", "add", target]));
            added.or_else(|failure| {
                eprintln!("{failure}");
                if Manager::detect() != Some(Manager::Apt) {
                    return Err(format!("{failure}: check the network and type: rustup target add {target}"));
                }
                println!("The distribution's own compiler is used instead.");
                if !Tool::RustCompiler.present() {
                    perform(&Action::Packages(Manager::Apt, vec![Tool::RustCompiler]), yes)?;
                }
                perform(&Action::DebianRust(target), yes)
            })
        }
        Action::DebianRust(target) => {
            if Toolchain::for_target(target).is_ok() {
                return Ok(());
            }
            if !root {
                return Err(format!(
                    "the compiler's folder belongs to root: type `sudo -E env PATH=\"$PATH\" cargo xtask setup` \
                     or get {target} from rustup"
                ));
            }
            if *target == LINUX { debian_rust::install_linux() } else { debian_rust::install_bare_metal() }
        }
        Action::Model => model::fetch().map(|file| println!("model: {}", file.display())),
        Action::DeviceTrees => device_trees::fetch(),
    }
}

/// What to type, for this machine's manager or for each.
fn by_hand(tools: &[Tool], manager: Option<Manager>) -> Failure {
    let names: Vec<_> = tools.iter().map(|tool| tool.name()).collect();
    let lines = match manager.and_then(|manager| manager.line(tools)) {
        Some(line) => format!("\n    {line}\nor let this do it: cargo xtask setup --yes"),
        None => packages::lines(tools),
    };
    if lines.is_empty() {
        return format!("missing, and not in the known package managers: {}", names.join("; "));
    }
    format!("missing: {}; install with{lines}", names.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_say_size_and_rights() {
        let action = Action::Packages(Manager::Apt, vec![Tool::QemuSystem, Tool::QemuUser]);
        assert!(action.needs_root());
        assert_eq!(action.megabytes(), Tool::QemuSystem.megabytes() + Tool::QemuUser.megabytes());
        assert!(!Action::Packages(Manager::Brew, vec![Tool::QemuSystem]).needs_root());
        assert!(!Action::Model.needs_root());
        assert!(Action::Model.megabytes() > 80);
        assert!(Action::Rustup(BARE_METAL).what().contains("target add aarch64-unknown-none"));
    }

    #[test]
    fn what_cannot_be_installed_is_named_with_a_line_to_type() {
        let line = by_hand(&[Tool::QemuSystem], Some(Manager::Apt));
        assert!(line.contains("sudo apt-get install") && line.contains("--yes"), "{line}");
        let lines = by_hand(&[Tool::QemuSystem], None);
        for manager in ["apt-get", "dnf", "brew"] {
            assert!(lines.contains(manager), "{lines}");
        }
        assert!(by_hand(&[Tool::CrossCompiler], Some(Manager::Brew)).contains("apt-get"));
    }

    #[test]
    fn nothing_is_planned_for_what_is_here() {
        let host = Toolchain::current().version().unwrap();
        let host: &'static str = crate::toolchain::version_field(&host, "host").unwrap().to_string().leak();
        assert_eq!(plan(&[Need::Target(host)]), []);
    }
}
