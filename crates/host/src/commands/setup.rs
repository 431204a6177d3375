//! What every command that runs a model does first: kernels, team, memory, session.

use std::time::Duration;

use barelm::llm::gguf::Gguf;
use barelm::llm::kv_cache::Overflow;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, PlanError, SchedulerConfig, SessionConfig};
use barelm::llm::pool::Team;
use barelm::llm::scheduler::Scheduler;
use barelm::llm::simd::{self, Kernels};
use barelm::llm::transformer::Session;
use clap::Args;
use memmap2::MmapMut;

use crate::failure::Failure;
use crate::model_file::ModelFile;
use crate::team::{ThreadTeam, default_threads};

/// How to run a model; none of it changes a result, except a window that is shorter than the text.
#[derive(Args, Clone, Debug, Default)]
pub struct SessionArguments {
    /// Threads to compute with (default: all cores).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Instruction set to compute with: scalar, avx2, neon … (default: the best one here).
    #[arg(long, value_name = "NAME")]
    pub kernels: Option<String>,
    /// Positions computed in one pass (default: 64 a thread, at most 256).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub batch: Option<u16>,
}

/// Positions that a member computes together, so that a pass of so many a thread leaves each to rows of its own.
const BAND: usize = 64;
/// Positions of a pass at most where nobody says; its scratch grows with them.
const MOST_BATCH: usize = 256;

impl SessionArguments {
    /// The table asked for.
    pub fn kernels(&self) -> Result<&'static Kernels, Failure> {
        let Some(name) = &self.kernels else { return Ok(simd::best()) };
        simd::by_name(name).ok_or_else(|| {
            let names: Vec<_> = simd::available().map(|kernels| kernels.name).collect();
            Failure::Message(format!(
                "no kernels named `{name}` on this machine; there are: {}",
                names.join(", ")
            ))
        })
    }

    /// How many threads are asked for.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(default_threads, usize::from)
    }

    /// The threads asked for.
    pub fn team(&self) -> Result<ThreadTeam, Failure> {
        ThreadTeam::try_new(self.threads()).map_err(|error| Failure::Message(error.to_string()))
    }

    /// Positions of a pass at most.
    pub fn batch(&self) -> usize {
        self.batch.map_or_else(|| (BAND * self.threads()).min(MOST_BATCH), usize::from)
    }
}

/// Positions and logits that a command needs of its session.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Positions to hold.
    pub context: usize,
    /// Attend only to so many positions; `None` to all.
    pub window: Option<usize>,
    /// Positions of a pass whose logits are wanted; `None` for all.
    pub logits: Option<usize>,
}

/// Loads the model of `gguf` and hands a session on it to `work`.
pub fn with_session<R>(
    file: &ModelFile,
    gguf: &Gguf<'_>,
    arguments: &SessionArguments,
    needs: Needs,
    work: impl FnOnce(&mut Session<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    // No pass is longer than the text.
    let batch = arguments.batch().min(needs.context).max(1);
    let config = |members| SessionConfig {
        context: needs.context,
        batch,
        logits: needs.logits.unwrap_or(batch).min(batch),
        overflow: needs.window.map_or(Overflow::Error, Overflow::Window),
        members,
    };
    let plan = |members| Plan::from_header(gguf, &config(members));
    with_model(file, gguf, arguments, plan, |Parts { model, kernels, team, memory }| {
        let mut session = Session::new(model, config(team.size()), kernels, team, memory)
            .map_err(|error| Failure::because(file.path().display(), error))?;
        work(&mut session)
    })
}

/// Loads the model of `gguf` and hands a scheduler on it to `work`. Members are those of the arguments; everything else
/// is as `config` says.
pub fn with_scheduler<R>(
    file: &ModelFile,
    gguf: &Gguf<'_>,
    arguments: &SessionArguments,
    config: SchedulerConfig,
    work: impl FnOnce(&mut Scheduler<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let plan = |members| Plan::scheduler(gguf, &SchedulerConfig { members, ..config });
    with_model(file, gguf, arguments, plan, |Parts { model, kernels, team, memory }| {
        let mut scheduler = Scheduler::new(model, config, kernels, team, memory)
            .map_err(|error| Failure::because(file.path().display(), error))?;
        work(&mut scheduler)
    })
}

/// What sessions and schedulers are made of.
struct Parts<'p> {
    model: &'p Model<'p>,
    kernels: &'static Kernels,
    team: &'p ThreadTeam,
    memory: &'p mut [u8],
}

/// Loads a model and allocates what a plan for so many members says, if there is so much.
fn with_model<R>(
    file: &ModelFile,
    gguf: &Gguf<'_>,
    arguments: &SessionArguments,
    plan: impl FnOnce(usize) -> Result<Plan, PlanError>,
    work: impl FnOnce(Parts<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::because(file.path().display(), error);
    let kernels = arguments.kernels()?;
    let team = arguments.team()?;
    let unchecked = LoadConfig { check_weights: false, ..LoadConfig::default() };
    let model = Model::load(gguf, unchecked).map_err(|error| refused(&error))?;
    let plan = plan(team.size()).map_err(|error| refused(&error))?.packed_for(kernels, gguf);
    if let Some(available) = available_memory() {
        plan.check(available).map_err(|error| Failure::because("not enough memory", error))?;
    }
    let mut copy = allocate(plan.packed)?;
    // Checks and packs on all threads; what is packed need not stay in memory twice.
    let model = model
        .packed_by(kernels, &mut copy, &team, &|packed| file.forget(packed))
        .map_err(|error| refused(&error))?;
    let mut memory = allocate(plan.session())?;
    work(Parts { model: &model, kernels, team: &team, memory: &mut memory })
}

/// Zeroed memory, in large pages where the system has them, or the reason why there is none.
fn allocate(bytes: u64) -> Result<MmapMut, Failure> {
    let refused = || {
        Failure::Message(format!(
            "the system refuses {bytes} bytes for the session; use a shorter --context or smaller --batch"
        ))
    };
    let bytes = usize::try_from(bytes).map_err(|_| refused())?;
    let memory = MmapMut::map_anon(bytes).map_err(|_| refused())?;
    // Large pages save time only, so a system without them is as good.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    Ok(memory)
}

/// Processor time that the system has spent for this process, in steps of 10 ms; `None` where it does not say.
///
/// While a model loads, that is mostly the supply of memory: a page is cleared when it is first touched, and a
/// hypervisor may have to find one first.
pub fn system_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the program's name, which may hold anything: state, 11 numbers, time of ours, time of the system's.
    let ticks: u64 = text.rsplit_once(") ")?.1.split(' ').nth(12)?.parse().ok()?;
    Some(Duration::from_millis(10 * ticks))
}

/// Bytes that the system can give without swapping, file pages that it can drop included; `None` where it does not
/// say.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_grows_with_the_threads_up_to_a_limit() {
        let batch =
            |threads, batch| SessionArguments { threads: Some(threads), batch, ..Default::default() }.batch();
        assert_eq!([1, 2, 4, 8, 200].map(|threads| batch(threads, None)), [64, 128, 256, 256, 256]);
        assert_eq!((batch(8, Some(7)), batch(1, Some(4096))), (7, 4096));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_spends_time_on_pages() {
        let before = system_time().expect("Linux says");
        // 10 ms are a step: pages are touched until there are some.
        while system_time().expect("Linux says") == before {
            let mut pages = MmapMut::map_anon(32 << 20).expect("there is memory");
            pages.chunks_mut(4096).for_each(|page| page[0] = 1);
        }
    }
}
