//! The prompt on the console: type, and the model answers.

use alloc::string::{String, ToString};
use core::fmt::{self, Write};

use super::command::{Command, HELP};
use super::generation::{self, Request, Speaker};
use super::line::{Event, LineEditor};
use super::model::Loaded;
use super::options::{DEFAULT_TOKENS, Options, Suite};
use super::{hash, suite};
use crate::arch::aarch64::doze;
use crate::boot::{Step, begin, heap_free};
use crate::console;
use crate::console_line as line;
use crate::llm::benchmarks::Clock;
use crate::llm::pool::Team;
use crate::llm::simd::{ARITHMETIC_VERSION, Kernels};
use crate::llm::transformer::Session;

/// What the shell works with.
pub struct Shell<'s> {
    /// The boot's options: they hold for each command too.
    pub options: &'s Options<'s>,
    /// The model.
    pub loaded: &'s Loaded,
    /// Kernels of everything.
    pub kernels: &'static Kernels,
    /// The cores.
    pub team: &'s dyn Team,
    /// For speeds.
    pub clock: &'s dyn Clock,
    /// What writes answers.
    pub speaker: &'s Speaker<'s>,
    /// The machine in words.
    pub machine: &'s str,
}

impl Shell<'_> {
    /// Reads and runs commands until `exit` or Ctrl-D. What a command reports as an error does not end the shell.
    pub fn run(&self) -> Result<(), String> {
        begin(Step::Shell);
        line!("\nType a text and the model answers; `help` names the commands, `exit` powers off.");
        let mut editor = LineEditor::new();
        loop {
            console::print(format_args!("> "));
            let event = self.read_line(&mut editor);
            let done = match event {
                Event::End => true,
                Event::Line => self.obey(Command::parse(editor.line())),
                Event::Interrupt | Event::Pending => false,
            };
            editor.clear();
            if done {
                return Ok(());
            }
        }
    }

    /// Reads bytes until they make a line or an end.
    fn read_line(&self, editor: &mut LineEditor) -> Event {
        loop {
            match self.speaker.keys.next().map(|byte| editor.feed(byte, &mut Screen)) {
                None => doze::relax(u32::MAX),
                Some(Ok(Event::Pending)) => {}
                Some(Ok(event)) => return event,
                // The screen takes everything.
                Some(Err(fmt::Error)) => {}
            }
        }
    }

    /// Runs a command; the answer is whether it was the last.
    fn obey(&self, command: Command<'_>) -> bool {
        let outcome = match command {
            Command::Nothing => Ok(()),
            Command::Exit => return true,
            Command::Help => {
                line!("{HELP}");
                Ok(())
            }
            Command::Info => {
                self.info();
                Ok(())
            }
            Command::Hash => hash::run(self.loaded, self.kernels, self.team),
            Command::Bench(filter) => {
                let options = Options { suite: Suite::On, ..self.options.clone() };
                suite::run(&options, filter, Some(self.loaded), self.kernels, self.team, self.clock)
                    .map(|_| ())
            }
            Command::Run(text) => self.answer(text),
        };
        if let Err(error) = outcome {
            line!("error: {error}");
        }
        begin(Step::Shell);
        false
    }

    fn answer(&self, text: &str) -> Result<(), String> {
        // `tokens=0` means no answer at boot; whoever types a text wants one.
        let tokens = if self.options.tokens == 0 { DEFAULT_TOKENS } else { self.options.tokens };
        let request = Request::new(self.loaded, Some(text), self.options.raw, tokens, self.team)?;
        let mut memory = generation::memory(self.loaded, &request.config, false)?;
        let mut session =
            Session::new(self.loaded.fastest(), request.config, self.kernels, self.team, &mut memory)
                .map_err(|e| e.to_string())?;
        begin(Step::Generation);
        self.speaker.answer(&mut session, &request)
    }

    fn info(&self) {
        let model = &self.loaded.model;
        line!("{}", self.machine);
        line!("kernels: {}, arithmetic version {ARITHMETIC_VERSION}", self.kernels.name);
        line!(
            "model: {}, {} parameters, {} bytes of weights, context {}",
            self.loaded.name,
            model.parameters(),
            model.weight_bytes(),
            model.shape().context_length
        );
        line!("memory: {} bytes free", heap_free());
    }
}

/// The console as the editor's screen.
struct Screen;

impl Write for Screen {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::print(format_args!("{text}"));
        Ok(())
    }
}
