//! One boot, step by step.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};

use cortex_a::registers::{CurrentEL, MIDR_EL1, Readable};

use super::cpu::Cpu;
use super::generation::{Request, Speaker};
use super::inject::Bench;
use super::keys::Keys;
use super::model::Loaded;
use super::options::{DEFAULT_TOKENS, Options, Source, Suite};
use super::settings::Settings;
use super::shell::Shell;
#[cfg(feature = "suite")]
use super::suite;
use super::{generation, hash};
use crate::arch::aarch64::doze::Doze;
use crate::arch::aarch64::{cores, exit, features, vectors, watchdog};
use crate::boot::clock::{self, KernelClock};
use crate::boot::machine::Machine;
use crate::boot::{Step, begin, entered_at, heap_free, pi, print_map};
use crate::console_line as line;
use crate::drivers::power::MOST_SECONDS;
use crate::llm::benchmarks::ClockKind;
use crate::llm::plan::SessionConfig;
use crate::llm::pool::{Team, run_on_all};
use crate::llm::sampler::SamplerConfig;
use crate::llm::simd::{self, ARITHMETIC_VERSION, Kernels};
use crate::log;

/// Seconds until a board whose cores are all silent resets itself, where nothing else is said: the most it can wait.
const BOARD_WATCHDOG_S: u32 = MOST_SECONDS;
/// Seconds that a core may give no sign of life where nothing else is said. Emulated cores may wait long for their turn.
const WATCHDOG_S: u64 = 60;

/// What is said where benchmarks are asked for and this is the small image.
#[cfg(not(feature = "suite"))]
pub const NO_SUITE: &str = "this image was built without the benchmark suite";

/// Runs the image to its end. An error is one line for a person.
pub fn run(machine: &Machine<'static>, _heap: usize) -> Result<(), String> {
    clock::banner();
    line!("BareLM {} on bare metal, no operating system", env!("CARGO_PKG_VERSION"));
    begin(Step::CommandLine);
    let options = Options::parse(machine.bootargs).map_err(|e| e.to_string())?;
    exit::set_after_failure(options.after_failure);
    open_log(&options, machine)?;
    log!(info, "boot words: {=str}", machine.bootargs);

    begin(Step::Cores);
    let wanted = options.cores.unwrap_or(machine.cores.len());
    let team = cores::start(machine.cores.iter().copied(), wanted, |affinity, error| {
        line!("core {affinity:#x} stays off: {error}");
        log!(warn, "core {=u64:#x} stays off", affinity);
    });
    let emulated = machine.emulated || pi::is_emulated();
    guard(&options, team, emulated);
    let kind = if emulated { ClockKind::Emulated } else { ClockKind::Wall };
    let clock = KernelClock::new(kind, options.exact);
    let description = describe(machine, team, emulated);
    line!("{description}");
    log!(
        info,
        "{=usize} of {=usize} cores, {=usize} bytes of heap",
        team.size(),
        machine.cores.len(),
        heap_free()
    );
    line!("board: {}", machine.model);
    pi::print();
    line!("memory: {} bytes of RAM, {} bytes free", machine.ram_bytes(), heap_free());
    print_map();
    features::announce();
    let kernels = kernels(&options)?;

    begin(Step::SelfTest);
    self_test()?;

    begin(Step::Model);
    // Micro-cases need no model; everything else does.
    let needed = match options.fault {
        Some(fault) => fault.needs_model(),
        None => options.suite == Suite::On || options.tokens > 0 || options.hash || options.shell,
    };
    let wanted = needed || options.model == Source::Embedded || machine.initrd.is_some();
    let mut loaded = wanted.then(|| Loaded::load(&options, machine)).transpose()?;

    if let Some(fault) = options.fault {
        if let Some(loaded) = &mut loaded {
            loaded.pack(kernels, &shell_session(loaded, team))?;
        }
        return Err(Bench { team, kernels, loaded: loaded.as_ref() }.raise(fault));
    }

    // What the command line asks for is checked before the long work begins.
    begin(Step::Session);
    let prompt = options.prompt.as_deref();
    let mut settings =
        Settings { sampler: SamplerConfig::default(), tokens: options.tokens, raw: options.raw };
    let request = match &loaded {
        Some(loaded) if options.tokens > 0 => Some(Request::new(loaded, prompt, &settings, team)?),
        _ => None,
    };

    #[cfg(feature = "suite")]
    let passed = match options.suite {
        Suite::Off => true,
        Suite::On | Suite::Micro => {
            begin(Step::Suite);
            suite::run(&options, options.filter, loaded.as_ref(), kernels, team, &clock)?
        }
    };
    #[cfg(not(feature = "suite"))]
    let passed = true;
    #[cfg(not(feature = "suite"))]
    if options.suite != Suite::Off {
        line!("{NO_SUITE}");
    }
    // The suite lays weights out for itself and gives the memory back.
    if let Some(loaded) = loaded.as_mut().filter(|_| options.hash || options.shell || request.is_some()) {
        begin(Step::Model);
        let session = match &request {
            Some(request) => request.config,
            None => shell_session(loaded, team),
        };
        loaded.pack(kernels, &session)?;
    }
    if let Some(loaded) = &loaded {
        begin(Step::Session);
        let keys = Keys::default();
        let speaker = Speaker { loaded, clock: &clock, keys: &keys, print_ids: options.ids };
        if options.hash {
            hash::run(loaded, kernels, team)?;
        }
        if let Some(request) = &request {
            generation::run(request, loaded, kernels, team, &speaker, options.trace)?;
        }
        if options.shell {
            if settings.tokens == 0 {
                // `tokens=0` means no answer at boot; whoever types a text wants one.
                settings.tokens = DEFAULT_TOKENS;
            }
            let (options, clock, speaker) = (&options, &clock, &speaker);
            let (machine, board) = (&description, machine.model);
            Shell { options, settings, loaded, kernels, team, clock, speaker, machine, board }.run()?;
        }
    }
    if passed { Ok(()) } else { Err("a benchmark case failed: see the summary".to_string()) }
}

/// Opens the logs that are asked for.
fn open_log(options: &Options<'_>, machine: &Machine<'_>) -> Result<(), String> {
    if options.log_uart {
        let uart = machine.soc.as_ref().and_then(|soc| pi::second_uart(soc, machine.uart));
        let uart =
            uart.ok_or("loguart=1: this board has no second UART that is known, or it is the console")?;
        log::open_uart(uart, options.log);
    }
    let Some(path) = &options.log_file else { return Ok(()) };
    let path = CString::new(path.as_str()).map_err(|error| format!("logfile={path}: {error}"))?;
    match log::open(&path, options.log) {
        true => Ok(()),
        false => Err(format!("logfile={}: the host does not open it", path.to_string_lossy())),
    }
}

/// Lets system errors in, and the cores watch each other.
fn guard(options: &Options<'_>, team: &dyn Team, emulated: bool) {
    run_on_all(team, &Doze, &|_| vectors::unmask_errors());
    // Ticks are instructions too: where these are counted exactly, nobody watches.
    let seconds = options.watchdog.unwrap_or(if options.exact { 0 } else { WATCHDOG_S });
    if seconds == 0 {
        line!("watchdog: off");
    } else if let Err(why) = watchdog::start(team, seconds) {
        line!("watchdog: off, {why}");
        log!(warn, "no watchdog");
    } else {
        line!("watchdog: a core without a sign of life for {seconds} s ends the machine");
    }
    // QEMU's model of it resets the machine as soon as it is started.
    let default = if emulated || exit::power().is_none() || seconds == 0 { 0 } else { BOARD_WATCHDOG_S };
    let board_s = options.board_watchdog.unwrap_or(default);
    if board_s > 0 {
        line!("board's watchdog: resets the board {board_s} s after the last core's last tick");
        if let Err(why) = watchdog::arm_board(board_s) {
            line!("board's watchdog: off, {why}");
        }
    }
}

/// A session that holds the hash's prompt, and a question with its answer in the shell.
pub fn shell_session(loaded: &Loaded, team: &dyn Team) -> SessionConfig {
    SessionConfig {
        context: loaded.model.shape().context_length.min(512),
        members: team.size(),
        ..SessionConfig::default()
    }
}

/// The machine in words.
fn describe(machine: &Machine<'_>, team: &dyn Team, emulated: bool) -> String {
    format!(
        "machine: {}{}, {} of {} cores running, at EL{}, entered at EL{}",
        Cpu(MIDR_EL1.get()),
        if emulated { " (emulated)" } else { "" },
        team.size(),
        machine.cores.len(),
        CurrentEL.read(CurrentEL::EL),
        entered_at()
    )
}

/// The table asked for, or the best.
fn kernels(options: &Options<'_>) -> Result<&'static Kernels, String> {
    let kernels = match options.kernels {
        Some(name) => simd::by_name(name).ok_or_else(|| format!("kernels={name}: not in this image"))?,
        None => simd::best(),
    };
    line!("kernels: {}", kernels.name);
    Ok(kernels)
}

/// Every table of kernels against the scalar one.
pub fn self_test() -> Result<(), String> {
    let mut checks = 0;
    let passed = simd::self_test(|table, what, equal| {
        checks += 1;
        watchdog::works();
        if !equal {
            line!("self-test: {table} {what} differs from the scalar table");
        }
    });
    if !passed {
        return Err("the self-test failed: this machine does not compute what it should".to_string());
    }
    line!(
        "self-test: {checks} checks, all equal to the scalar table (arithmetic version {ARITHMETIC_VERSION})"
    );
    Ok(())
}
