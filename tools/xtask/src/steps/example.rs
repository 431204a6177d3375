//! The minimal kernel: it is formatted, it boots, and its text is the host's.

use super::{BOOTING, Run, Step};
use crate::toolchain::Toolchain;
use crate::{Failure, example, process};

/// Its step.
pub fn steps() -> Vec<Step> {
    vec![Step::new("boot: example kernel", &BOOTING, |run| judge(run).into())]
}

fn judge(run: &Run) -> Result<(), Failure> {
    // Formatting of the workspace does not reach it.
    process::run(Toolchain::current().cargo().current_dir(example::folder()).args(["fmt", "--check"]))?;
    let guest = example::run()?;
    let model = crate::root().join("crates/kernel/assets/tiny.gguf");
    let mut barelm = process::command(run.barelm()?);
    barelm.arg("run").arg(model).args(["--raw", "--prompt", &guest.prompt, "--tokens", &guest.tokens]);
    let host = process::read(barelm.args(["--temp", &guest.temperature, "--seed", &guest.seed]))?;
    if host.strip_suffix('\n') == Some(guest.text.as_str()) && !guest.text.trim().is_empty() {
        return Ok(());
    }
    Err(format!("the host writes: {host}"))
}
