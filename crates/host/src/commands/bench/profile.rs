//! Where the time of prompts and generation goes: a table of steps.

use std::io::Write;
use std::sync::LazyLock;
use std::time::Instant;

use barelm::llm::gguf::Gguf;
use barelm::llm::model::Shape;
use barelm::llm::transformer::{Session, Step};

use crate::failure::Failure;

/// Nanoseconds since the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Nanoseconds since the start fit in 64 bits for 584 years.
    START.elapsed().as_nanos() as u64
}

/// What a step of one pass reads and computes, all layers together.
#[derive(Clone, Copy, Default)]
struct Matrices {
    bytes: f64,
    /// Weights.
    elements: f64,
}

/// Bytes and operations of the steps of one model.
pub(super) struct Costs {
    matrices: [Matrices; Step::ALL.len()],
    /// Bytes of one position's keys and values, all layers.
    kv_bytes: f64,
    /// Operations of attention for one position and one that it sees, all layers.
    attention: f64,
}

impl Costs {
    pub(super) fn of(gguf: &Gguf<'_>, shape: &Shape) -> Self {
        let mut matrices = [Matrices::default(); Step::ALL.len()];
        let head = if gguf.tensor("output.weight").is_some() { "output" } else { "token_embd" };
        for tensor in gguf.tensors().filter(|tensor| tensor.n_dims == 2) {
            let name = tensor.name.trim_end_matches(".weight");
            let step = match name.rsplit('.').next() {
                Some("attn_q" | "attn_k" | "attn_v") => Step::QueryKeyValue,
                Some("attn_output") => Step::Output,
                Some("ffn_gate" | "ffn_up") => Step::GateUp,
                Some("ffn_down") => Step::Down,
                _ if name == head => Step::Head,
                _ => continue,
            };
            let matrices = &mut matrices[step as usize];
            matrices.bytes += tensor.size_bytes as f64;
            matrices.elements += (tensor.dims[0] * tensor.dims[1]) as f64;
        }
        Costs {
            matrices,
            kv_bytes: (shape.n_layers * shape.kv_dim() * 2 * 2) as f64,
            attention: (shape.n_layers * shape.q_dim() * 2 * 2) as f64,
        }
    }
}

/// Passes that were counted.
#[derive(Clone, Copy)]
pub(super) struct Passes {
    /// How many.
    pub passes: usize,
    /// Times that all layers' weights were read.
    pub readings: usize,
    /// Positions of all of them, and those whose logits were wanted.
    pub positions: usize,
    pub heads: usize,
    /// Passes that had any of the latter.
    pub head_passes: usize,
    /// Sum over the positions of how many positions each saw.
    pub seen: f64,
    /// Sum over the passes of how many positions the cache held at their end.
    pub held: f64,
}

/// Runs `work` with a profile and prints what its passes spent their time on.
pub(super) fn measure(
    session: &mut Session<'_>,
    costs: &Costs,
    test: &str,
    passes: Passes,
    work: impl FnOnce(&mut Session<'_>) -> Result<(), Failure>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    session.set_profile(Some(now));
    let start = Instant::now();
    work(session)?;
    let elapsed_ns = start.elapsed().as_nanos() as f64;
    let threads = session.config().members as f64;
    let profile = session.profile().expect("set above");
    let ticks = Step::ALL.map(|step| profile.ticks(step) as f64 / threads);
    session.set_profile(None);
    writeln!(
        out,
        "\n{test}, {threads} thread(s): {:.2} ms, {:.3} ms a pass, {:.3} ms a position\n\n\
         | step | ms | share | GB/s | Gop/s |\n|---|---:|---:|---:|---:|",
        elapsed_ns / 1e6,
        elapsed_ns / 1e6 / passes.passes as f64,
        elapsed_ns / 1e6 / passes.positions as f64,
    )?;
    let line = |out: &mut dyn Write, name: &str, ns: f64, bytes: f64, operations: f64| {
        let rate = |amount: f64| match amount {
            0.0 => "-".to_owned(),
            _ => format!("{:.1}", amount / ns.max(1.0)),
        };
        writeln!(
            out,
            "| {name} | {:.2} | {:.1} % | {} | {} |",
            ns / 1e6,
            100.0 * ns / elapsed_ns,
            rate(bytes),
            rate(operations)
        )
    };
    for step in Step::ALL {
        let matrices = costs.matrices[step as usize];
        let (bytes, operations) = match step {
            Step::Attention => (costs.kv_bytes * passes.held, costs.attention * passes.seen),
            Step::Head => {
                (matrices.bytes * passes.head_passes as f64, 2.0 * matrices.elements * passes.heads as f64)
            }
            _ => (matrices.bytes * passes.readings as f64, 2.0 * matrices.elements * passes.positions as f64),
        };
        line(out, step.name(), ticks[step as usize], bytes, operations)?;
    }
    // Starting the team, checks of ids and logits, and waiting for the last member.
    line(out, "outside", (elapsed_ns - ticks.iter().sum::<f64>()).max(0.0), 0.0, 0.0)?;
    Ok(out.flush()?)
}
