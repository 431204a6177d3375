//! Who is there: every engine is started once and greeted, before anything is planned.

use std::collections::BTreeMap;

use super::plan::Plan;
use crate::compare::attending::completed;
use crate::compare::process::{Process, file_sha256};
use crate::compare::record::{EngineId, EngineRow};
use crate::compare::registry;

/// What is known of an engine that can run.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// As rows name it.
    pub id: EngineId,
    /// Types of weights that it computes with as they are in the file.
    pub formats: Vec<String>,
    /// Requests that it computes together.
    pub max_in_flight: usize,
}

/// Engines that can run, by their place among a plan's contenders.
pub type Engines = BTreeMap<usize, Known>;

/// Greets every engine of a plan: those that can run, and a row for each, with the reason of those that cannot.
pub fn greet(plan: &Plan, progress: &mut dyn FnMut(&str)) -> (Engines, Vec<EngineRow>) {
    let mut engines = Engines::new();
    let mut rows = Vec::new();
    for (at, contender) in plan.contenders.iter().enumerate() {
        let (name, command) = (contender.name.clone(), &contender.command);
        progress(&format!("{name}: greeting"));
        let mut row = EngineRow {
            name: name.clone(),
            hello: None,
            command: command.words(),
            program_sha256: file_sha256(&command.program).ok(),
            missing: None,
        };
        match Process::start(command, plan.patience) {
            Ok(process) => {
                let hello = process.hello().clone();
                let id = EngineId {
                    name,
                    version: format!("{} {}", hello.engine, hello.version),
                    device: hello.device.clone(),
                    batching: hello.batching,
                    build: hello.compiled.clone(),
                    settings: completed(&hello.settings, &registry::Known::settings_of(&command.program)),
                    crippled: hello.crippled.clone(),
                };
                let (formats, max_in_flight) = (hello.formats.clone(), hello.max_in_flight);
                engines.insert(at, Known { id, formats, max_in_flight });
                row.hello = Some(hello);
            }
            Err(trouble) => row.missing = Some(trouble.to_string()),
        }
        rows.push(row);
    }
    (engines, rows)
}
