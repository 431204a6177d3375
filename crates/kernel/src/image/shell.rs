//! The prompt on the console: type, and the model answers.

use alloc::string::{String, ToString};
use core::fmt::{self, Write};

use super::chat::{self, Chat};
use super::command::{Command, HELP};
use super::fault::Fault;
use super::generation::{self, Request, Speaker};
use super::inject::Bench;
use super::line::{Event, LineEditor};
use super::model::Loaded;
use super::options::Options;
use super::settings::Settings;
use super::{hash, run, trace};
#[cfg(feature = "suite")]
use super::{options::Suite, perf, suite};
use crate::arch::aarch64::{doze, exit, watchdog};
use crate::boot::{self, Step, begin, heap_free, print_map};
use crate::console;
use crate::console_line as line;
use crate::llm::benchmarks::Clock;
use crate::llm::pool::Team;
use crate::llm::simd::{ARITHMETIC_VERSION, Kernels};
use crate::llm::transformer::Session;
use crate::log;
use crate::report::Build;

/// What the shell works with.
pub struct Shell<'s> {
    /// The boot's options: they hold for each command too.
    #[cfg_attr(not(feature = "suite"), expect(dead_code, reason = "only benchmarks look at them"))]
    pub options: &'s Options<'s>,
    /// How answers are made; `set` changes it.
    pub settings: Settings,
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
    /// The board in words.
    pub board: &'s str,
}

impl Shell<'_> {
    /// Reads and runs commands until `off`. What a command reports as an error does not end the shell.
    pub fn run(mut self) -> Result<(), String> {
        begin(Step::Shell);
        line!("\nType a text and the model answers; `help` names the commands, `off` powers off.");
        let mut editor = LineEditor::new();
        loop {
            console::print(format_args!("> "));
            match self.read_line(&mut editor) {
                // A line that noise has brought about should not end the machine.
                Event::End => line!("`off` powers off"),
                Event::Line => {
                    let command = Command::parse(editor.line());
                    log!(info, "typed: {=str}", editor.line());
                    if command == Command::Off {
                        return Ok(());
                    }
                    if let Err(error) = self.obey(command) {
                        line!("error: {error}");
                    }
                    begin(Step::Shell);
                }
                Event::Interrupt | Event::Pending => {}
            }
            editor.clear();
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

    /// Runs a command.
    fn obey(&mut self, command: Command<'_>) -> Result<(), String> {
        match command {
            Command::Nothing | Command::Off => {}
            Command::Reboot => {
                line!("starting again");
                exit::reset();
            }
            Command::Help => line!("{HELP}"),
            Command::Info => self.info(),
            Command::Memory => self.memory()?,
            Command::Settings => line!("{}", self.settings),
            Command::Set(name, value) => {
                self.settings.set(name, value).map_err(|error| error.to_string())?;
                line!("{}", self.settings);
            }
            Command::Hash => hash::run(self.loaded, self.kernels, self.team)?,
            #[cfg(not(feature = "suite"))]
            Command::Bench(_) | Command::Perf(_) => return Err(run::NO_SUITE.into()),
            #[cfg(feature = "suite")]
            Command::Bench(filter) => {
                let options = Options { suite: Suite::On, ..self.options.clone() };
                suite::run(&options, filter, Some(self.loaded), self.kernels, self.team, self.clock)?;
            }
            #[cfg(feature = "suite")]
            Command::Perf(filter) => {
                let options = Options { suite: Suite::Micro, ..self.options.clone() };
                perf::run(&options, filter, self.loaded, self.kernels, self.team, self.clock)?;
            }
            Command::SelfTest => {
                run::self_test()?;
                self.loaded.verify()?;
                line!(
                    "model: {}",
                    if self.loaded.is_checked() {
                        "as its checksum says"
                    } else {
                        "not checked: boot with checksum=1"
                    }
                );
            }
            Command::Fault(name) => {
                let fault = Fault::from_name(name)
                    .ok_or_else(|| alloc::format!("no such fault; there are {}", Fault::NAMES))?;
                let bench = Bench { team: self.team, kernels: self.kernels, loaded: Some(self.loaded) };
                let found = bench.raise(fault);
                boot::fail(format_args!("{found}"));
            }
            Command::Run(text) => self.answer(Some(text), false)?,
            Command::Trace(text) => self.answer(text, true)?,
            Command::Chat => self.chat()?,
        }
        Ok(())
    }

    fn answer(&self, text: Option<&str>, traced: bool) -> Result<(), String> {
        let request = Request::new(self.loaded, text, &self.settings, self.team)?;
        let mut memory = generation::memory(self.loaded, &request.config, false)?;
        let mut session =
            Session::new(self.loaded.fastest(), request.config, self.kernels, self.team, &mut memory)
                .map_err(|e| e.to_string())?;
        if traced {
            trace::begin(&mut session);
        }
        begin(Step::Generation);
        self.speaker.answer(&mut session, &request)?;
        trace::print(&session, self.clock);
        Ok(())
    }

    /// Holds a conversation until Ctrl-D or `/end`.
    fn chat(&self) -> Result<(), String> {
        let (mut memory, config) = chat::prepare(self.speaker, self.team)?;
        let mut session = chat::session(self.speaker, config, self.kernels, self.team, &mut memory)?;
        let mut chat = Chat::new(self.speaker, &self.settings);
        let turns =
            if chat.takes_turns() { "takes turns" } else { "has no chat template and continues the text" };
        line!("The model {turns}; room for {} tokens. Ctrl-D or /end leaves.", config.context);
        let mut editor = LineEditor::new();
        loop {
            console::print(format_args!("chat> "));
            match self.read_line(&mut editor) {
                Event::End => return Ok(()),
                Event::Line => match editor.line().trim() {
                    "" => {}
                    "/end" => return Ok(()),
                    text => {
                        begin(Step::Generation);
                        if let Err(error) = chat.say(&mut session, text, &self.settings) {
                            line!("error: {error}");
                        }
                        begin(Step::Shell);
                    }
                },
                Event::Interrupt | Event::Pending => {}
            }
            editor.clear();
        }
    }

    fn info(&self) {
        let model = &self.loaded.model;
        line!("BareLM {}, build {Build}", env!("CARGO_PKG_VERSION"));
        line!("{}", self.machine);
        line!("board: {}", self.board);
        match watchdog::limit_s() {
            Some(seconds) => line!("watchdog: {seconds} s"),
            None => line!("watchdog: off"),
        }
        line!("kernels: {}, arithmetic version {ARITHMETIC_VERSION}", self.kernels.name);
        line!(
            "model: {}, {} parameters, {} bytes of weights, context {}",
            self.loaded.name,
            model.parameters(),
            model.weight_bytes(),
            model.shape().context_length
        );
        line!("settings: {}", self.settings);
        line!("memory: {} bytes free", heap_free());
    }

    fn memory(&self) -> Result<(), String> {
        print_map();
        line!("image: {} bytes with stacks", boot::image().len());
        line!("heap: {} bytes free", heap_free());
        let config = run::shell_session(self.loaded, self.team);
        line!("a session of {} positions:", config.context);
        line!("{}", self.loaded.plan(&config)?);
        Ok(())
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
