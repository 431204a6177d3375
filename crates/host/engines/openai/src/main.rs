//! Any OpenAI-compatible server as an engine: speaks the session that `docs/llm/PROTOCOL.md` describes.
//!
//! 1. [`server`] sends completions and reads the stream of events that answers them.
//! 2. [`chunk`] reads one event: text, ids where the server tells them, counts.
//! 3. [`model`] turns ids into requests and events into ids, many at a time.
//! 4. [`backend`] greets and loads; [`local`] finds the processes of a server on this machine.

mod backend;
mod chunk;
mod local;
mod model;
mod server;

use std::process::ExitCode;

use backend::OpenAi;
use barelm::llm::quant::GgmlType;

const HELP: &str = "Speaks a session of JSON lines on standard input and output: see docs/llm/PROTOCOL.md.

  --url URL        the server, such as http://127.0.0.1:8000/v1 (default: $BARELM_OPENAI_URL)
  --model NAME     its model (default: $BARELM_OPENAI_MODEL, else the first one it lists)
  --device NAME    what it computes on, cpu or cuda: nobody can ask it (default: $BARELM_OPENAI_DEVICE, else cpu)
  --format NAME    the type of its weights, such as Q8_0: nobody can ask it, and without it `barelm compare` cannot tell which
                   files it may be compared with (default: $BARELM_OPENAI_FORMAT)

A key, where the server wants one, is taken from $OPENAI_API_KEY.";

/// What the command line and the environment say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Where the server is.
    pub url: Option<String>,
    /// Which of its models.
    pub model: Option<String>,
    /// What it computes on.
    pub device: String,
    /// The type of its weights.
    pub format: Option<String>,
    /// A secret to show it.
    pub key: Option<String>,
}

impl Options {
    fn parse(
        arguments: impl IntoIterator<Item = String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut options = Options {
            url: variable("BARELM_OPENAI_URL"),
            model: variable("BARELM_OPENAI_MODEL"),
            device: variable("BARELM_OPENAI_DEVICE").unwrap_or_else(|| "cpu".into()),
            format: variable("BARELM_OPENAI_FORMAT"),
            key: variable("OPENAI_API_KEY"),
        };
        let mut arguments = arguments.into_iter();
        while let Some(name) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{name}: a value is missing"));
            match name.as_str() {
                "--url" => options.url = Some(value()?),
                "--model" => options.model = Some(value()?),
                "--device" => options.device = value()?,
                "--format" => options.format = Some(value()?),
                _ => return Err(format!("{name} is not known\n\n{HELP}")),
            }
        }
        let types = GgmlType::ALL.map(GgmlType::name);
        if let Some(other) = options.format.as_deref().filter(|format| !types.contains(format)) {
            return Err(format!("--format {other}: there are {}", types.join(" ")));
        }
        match options.device.as_str() {
            "cpu" | "cuda" => Ok(options),
            other => Err(format!("--device {other}: there are cpu and cuda")),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--help"] {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match Options::parse(arguments, |name| std::env::var(name).ok()) {
        Ok(options) => barelm_protocol::serve_standard(&OpenAi::new(options)),
        Err(why) => {
            eprintln!("openai-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str], variables: &[(&str, &str)]) -> Result<Options, String> {
        let of =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        Options::parse(words.iter().map(|&word| word.to_owned()), of)
    }

    #[test]
    fn the_command_line_goes_before_the_environment() {
        assert_eq!(parse(&[], &[]).unwrap(), Options { device: "cpu".into(), ..Options::default() });
        let variables =
            [("BARELM_OPENAI_URL", "http://a"), ("BARELM_OPENAI_MODEL", ""), ("BARELM_OPENAI_FORMAT", "F16")];
        let options = parse(&["--url", "http://b", "--device", "cuda"], &variables).unwrap();
        assert_eq!((options.url.as_deref(), options.device.as_str()), (Some("http://b"), "cuda"));
        assert_eq!(options.format.as_deref(), Some("F16"));
        assert_eq!(options.model, None, "an empty variable says nothing");
    }

    #[test]
    fn wrong_words_are_named() {
        assert!(parse(&["--url"], &[]).unwrap_err().contains("--url"));
        assert!(parse(&["--ulr", "x"], &[]).unwrap_err().contains("--ulr"));
        let why = parse(&["--format", "q8"], &[]).unwrap_err();
        assert!(why.contains("q8") && why.contains("Q8_0"), "{why}");
        assert!(parse(&["--device", "abacus"], &[]).unwrap_err().contains("abacus"));
    }
}
