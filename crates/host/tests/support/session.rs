//! Sessions, all logits of a sequence, and the hash that they must have.

use barelm::llm::gguf::Gguf;
use barelm::llm::model::{LoadConfig, Model};
use barelm::llm::plan::{Plan, SessionConfig};
use barelm::llm::pool::Team;
use barelm::llm::simd::{ARITHMETIC_VERSION, Kernels};
use barelm::llm::transformer::{Logits, Session};
use barelm_host::team::ThreadTeam;

use super::data;

/// Runs `work` on a session of the file's model with the given (kernels, threads) and (context, batch, logits).
pub fn on_session<R>(
    gguf: &Gguf<'_>,
    (kernels, threads): (&'static Kernels, usize),
    (context, batch, logits): (usize, usize, usize),
    work: impl FnOnce(&mut Session<'_>) -> R,
) -> R {
    let model = Model::load(gguf, LoadConfig::default()).expect("the model loads");
    let team = ThreadTeam::try_new(threads).expect("threads start");
    let config = SessionConfig { context, batch, logits, members: team.size(), ..SessionConfig::default() };
    let plan = Plan::from_header(gguf, &config).expect("the plan fits");
    let mut copy = vec![0; usize::try_from(model.packed_bytes(kernels)).expect("the weights fit in memory")];
    let model = model.packed(kernels, &mut copy).expect("the memory suffices");
    let mut memory = vec![0; usize::try_from(plan.session()).expect("a session fits in memory")];
    let mut session =
        Session::new(&model, config, kernels, &team, &mut memory).expect("planned memory is enough");
    work(&mut session)
}

/// All logits of `ids` from an empty context, `[position × vocab]`.
pub fn all_logits(session: &mut Session<'_>, ids: &[u32]) -> Vec<f32> {
    session.reset();
    let mut logits = Vec::new();
    for batch in ids.chunks(session.config().batch) {
        logits.extend_from_slice(session.forward(batch, Logits::All).expect("the prompt runs"));
    }
    logits
}

/// The committed hash of the logits of `HASH_PROMPT` on the reference model in the type called `ty`, for this version of
/// the arithmetic; `None` where `data/logits_hash.tsv` has no such line.
pub fn expected_hash(ty: &str) -> Option<u64> {
    let version = ARITHMETIC_VERSION.to_string();
    data("logits_hash.tsv").lines().find_map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        let [found_version, found_type, hash] = fields[..] else { panic!("`{line}` has not three fields") };
        let found = found_version == version && found_type == ty;
        found.then(|| u64::from_str_radix(hash, 16).expect("the third field is a hash"))
    })
}
