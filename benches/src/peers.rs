//! Engines of other projects as contenders: their `op`, in processes of their own.

use std::time::Duration;

use barelm_host::compare::process::{EngineCommand, Patience, Process};
use barelm_host::compare::registry::{Known, folders};
use barelm_protocol::{Op, Reply, Request};

use crate::contest::Contender;

/// The engines whose tensors are compared.
pub const PEERS: [&str; 3] = ["candle", "burn", "pytorch"];

/// An operation of engine `name` as a contender; one that is not built says how to build it.
///
/// Between its turns it rests, so that threads which spin disturb nobody. Times are the engine's own, medians of samples taken for as long as asked. Its answers are held against plain arithmetic
/// by `crates/host/tests/engines.rs`, which is the test of every adapter.
pub fn contender(name: &str, op: &str, params: &[(&str, usize)]) -> Contender<'static> {
    let Some(known) = Known::find(name) else {
        return Contender::absent(name, "this build has no adapter for it");
    };
    let own = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    let Some(program) = known.installed(&folders(own.as_deref())) else {
        return Contender::absent(name, known.how_to_get());
    };
    let arguments = known.arguments.iter().map(Into::into).collect();
    let mut process = match Process::start(&EngineCommand { program, arguments }, Patience::default()) {
        Ok(process) => process,
        Err(trouble) => return Contender::absent(name, trouble.to_string()),
    };
    let hello = process.hello();
    if !hello.ops.iter().any(|known| known == op) {
        return Contender::absent(name, format!("has no operation `{op}`"));
    }
    let label = format!("{name} {} ({})", hello.version, hello.detected.join(" "));
    let (op, params) = (op.to_owned(), params.iter().map(|&(name, n)| (name.to_owned(), n.into())).collect());
    let mut id = 0;
    process.pause();
    let request = Op { id, name: op, params, min_ns: 0 };
    Contender {
        name: label,
        sampler: Ok(Box::new(move |time: Duration| {
            id += 1;
            let min_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
            let request = Request::Op(Op { id, min_ns, ..request.clone() });
            process.resume();
            let reply = process.ask(&request, Duration::from_secs(120));
            process.pause();
            match reply.map_err(|trouble| trouble.to_string())? {
                Reply::Op(times) => {
                    let mut samples = times.samples_ns;
                    samples.sort_by(f64::total_cmp);
                    samples.get(samples.len() / 2).map(|ns| ns / 1e9).ok_or("no samples".to_owned())
                }
                Reply::NotExpressible { reason, .. } => Err(reason),
                other => Err(format!("answered {other:?}")),
            }
        })),
    }
}
