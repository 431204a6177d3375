//! Figures of whole boots, counted to the last digit like the micro-cases and kept beside them: instructions to the
//! first line, to the first token and for a token of a prompt or after it, memory beside the plan, and the image's size.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::gate::Counts;
use crate::guest::{Boot, Console};
use crate::image::{self, Build, Image};
use crate::toolchain::Toolchain;
use crate::{Failure, model, process, progress, qemu};

/// The model that images embed.
const EMBEDDED: &str = "crates/kernel/assets/tiny.gguf";

/// Most bytes of an image without its model. The goal of 400 KiB is met with NEON alone and without benchmarks
/// ([`MOST_SMALL_BYTES`]); `PERFORMANCE.md` says what the others are.
pub const MOST_IMAGE_BYTES: u64 = 820 << 10;
/// Most bytes of the small image without its model.
pub const MOST_SMALL_BYTES: u64 = 400 << 10;

/// A prompt of [`PROMPT_TOKENS`] tokens of SmolLM2.
const PROMPT: &str = "The old man went down to the sea and took a small boat out on the water to look for \
    a big fish that he had seen the day before the storm";
/// A word each.
const PROMPT_TOKENS: u64 = 32;

/// Bytes of the image less the model in it.
pub fn image_bytes(image: &Image) -> Result<u64, Failure> {
    let model = crate::root().join(EMBEDDED);
    let bytes = std::fs::metadata(&model).map_err(|error| format!("{}: {error}", model.display()))?.len();
    image.bytes.checked_sub(bytes).ok_or_else(|| "the image is smaller than the model in it".to_string())
}

/// All figures; those of SmolLM2 only where the model is.
pub fn count() -> Result<Counts, Failure> {
    let image = image::build(&Build::default())?;
    let mut figures = Counts::new();
    let words = "suite=off exact=1 model=embedded tokens=8";
    let small = boot(&image.raw, qemu::DEFAULT_CPU, None, words)?;
    figures.insert("first_line/embedded".to_string(), small.first_line);
    figures.insert("first_token/embedded".to_string(), small.first_token);
    figures.insert("heap_besides_session/embedded".to_string(), small.besides);
    figures.insert("each_token/embedded".to_string(), small.each_token);
    if model::cached() {
        let file = quantized()?;
        for cpu in ["cortex-a53", "cortex-a76", "max"] {
            let words = "suite=off exact=1 raw=1 prompt=The tokens=5";
            let large = boot(&image.raw, cpu, Some(file.clone()), words)?;
            figures.insert(format!("each_token/smollm2-q4_0-{cpu}"), large.each_token);
            let words = format!("suite=off exact=1 raw=1 prompt={} tokens=2", PROMPT.replace(' ', "%20"));
            let long = boot(&image.raw, cpu, Some(file.clone()), &words)?;
            if long.prompt != PROMPT_TOKENS {
                return Err(format!("{} tokens of the prompt, {PROMPT_TOKENS} were meant", long.prompt));
            }
            figures.insert(format!("each_prompt_token/smollm2-q4_0-{cpu}"), long.each_prompt_token);
        }
        let image = image::build(&Build { small: true, ..Build::default() })?;
        let words = "exact=1 raw=1 prompt=The tokens=5";
        let small = boot(&image.raw, "cortex-a53", Some(file), words)?;
        figures.insert("each_token/smollm2-q4_0-cortex-a53-small-image".to_string(), small.each_token);
    }
    Ok(figures)
}

/// SmolLM2-135M-Instruct in Q4_0, made once of the reference model.
fn quantized() -> Result<PathBuf, Failure> {
    let folder = crate::target_folder().join("boots");
    let file = folder.join("smollm2-q4_0.gguf");
    if !file.exists() {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut cargo = Toolchain::current().cargo();
        cargo.args(["run", "--quiet", "--release", "-p", "barelm-host", "--bin", "barelm", "--", "quantize"]);
        process::read(cargo.arg(model::path()).arg(&file).args(["--type", "q4_0"]))?;
    }
    Ok(file)
}

/// What a counted boot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    first_line: u64,
    first_token: u64,
    each_token: u64,
    /// Tokens of the prompt.
    prompt: u64,
    each_prompt_token: u64,
    /// Bytes of the heap besides the session's memory.
    besides: u64,
}

fn boot(kernel: &Path, cpu: &str, initrd: Option<PathBuf>, words: &str) -> Result<Said, Failure> {
    let boot = Boot {
        kernel: kernel.to_owned(),
        initrd,
        words: words.to_string(),
        cpu: cpu.to_string(),
        icount: true,
        limit: Duration::from_secs(300),
        ..Boot::default()
    };
    let spinner = progress::spinner("counting instructions of a boot");
    let outcome = boot.run(Console::Kept);
    spinner.finish_and_clear();
    let outcome = outcome?;
    if outcome.status != Some(0) {
        return Err(format!("{}: {}", outcome.ending(), outcome.last_lines(3)));
    }
    read(&outcome.text)
}

/// Reads the console. Memory that is not what was planned, to the byte, is a failure.
fn read(console: &str) -> Result<Said, Failure> {
    let numbers = |start: &str| -> Result<Vec<u64>, Failure> {
        let line = console.lines().find_map(|line| line.strip_prefix(start));
        let line = line.ok_or_else(|| format!("no line `{start}…`"))?;
        let words = line.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
        words.map(|word| word.parse::<u64>().map_err(|error| format!("{word}: {error}"))).collect()
    };
    let entry = numbers("instructions from entry: ")?;
    let prompt = numbers("instructions for each of a prompt's ")?;
    let tokens = numbers("instructions for each of the ")?;
    let memory = numbers("memory for the session: ")?;
    let (
        [first_line, first_token],
        [prompt, each_prompt_token],
        [_, each_token],
        [taken, planned, used, besides],
    ) = (&entry[..], &prompt[..], &tokens[..], &memory[..])
    else {
        return Err(format!("lines with other numbers: {entry:?}, {prompt:?}, {tokens:?}, {memory:?}"));
    };
    if taken != planned || used > planned {
        return Err(format!("the session takes {taken} bytes and uses {used}, and {planned} are planned"));
    }
    Ok(Said {
        first_line: *first_line,
        first_token: *first_token,
        each_token: *each_token,
        prompt: *prompt,
        each_prompt_token: *each_prompt_token,
        besides: *besides,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "instructions from entry: 1696907 to the first line, 521112186 to the first token\n\
        instructions for each of a prompt's 5 tokens: 701022\n\
        instructions for each of the 7 tokens behind the first: 679121\n\
        memory for the session: 476288 bytes taken, 476288 planned, 476180 in use; 70000 bytes of the heap besides\n";

    #[test]
    fn figures_are_read_from_the_console() {
        let said = Said {
            first_line: 1_696_907,
            first_token: 521_112_186,
            each_token: 679_121,
            prompt: 5,
            each_prompt_token: 701_022,
            besides: 70_000,
        };
        assert_eq!(read(CONSOLE), Ok(said));
    }

    #[test]
    fn memory_off_the_plan_by_a_byte_is_a_failure() {
        let failure = read(&CONSOLE.replace("476288 bytes taken", "476289 bytes taken")).unwrap_err();
        assert!(failure.contains("476289") && failure.contains("476288 are planned"), "{failure}");
        assert!(read("").unwrap_err().contains("no line"));
    }
}
