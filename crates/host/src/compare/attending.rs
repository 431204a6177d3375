//! How an engine keeps keys and values and attends to them, as the rows of a record say.

use std::collections::BTreeMap;

use super::record::Row;

/// What no row says.
const UNKNOWN: &str = "unknown";

/// An engine's cache and attention, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attending {
    /// What it computes on.
    pub device: String,
    /// Type of cached keys and values: `f16`, `f32`, or in other words.
    pub kv_type: String,
    /// Whether attention is computed block by block, never with all scores at once.
    pub flash_attention: String,
    /// Whether a pass is one CUDA graph.
    pub cuda_graphs: String,
}

impl Attending {
    /// What `rows` say of an engine: the settings that its measurements carry, else its greeting. What neither says is
    /// `unknown`, as in records of adapters that did not say it yet.
    pub fn of(rows: &[Row], engine: &str) -> Self {
        let mut ids = rows.iter().filter_map(|row| match row {
            Row::Visit(visit) => Some(&visit.engine),
            Row::Quality(quality) => Some(&quality.engine),
            Row::Op(op) => Some(&op.engine),
            _ => None,
        });
        let measured = ids.rfind(|id| id.name == engine);
        let greeting = rows.iter().find_map(|row| match row {
            Row::Engine(row) if row.name == engine => row.hello.as_ref(),
            _ => None,
        });
        let device = measured.map(|id| id.device.as_str()).or(greeting.map(|hello| hello.device.as_str()));
        let settings = [measured.map(|id| &id.settings), greeting.map(|hello| &hello.settings)];
        Self::from(device.unwrap_or(UNKNOWN), |name| {
            settings.iter().flatten().find_map(|settings| settings.get(name)).cloned()
        })
    }

    fn from(device: &str, setting: impl Fn(&str) -> Option<String>) -> Self {
        let unknown = || UNKNOWN.to_owned();
        // PyTorch's adapter names the form of its attention instead.
        let named = || match setting("attention")?.as_str() {
            "eager" => Some("off: eager attention".to_owned()),
            form => Some(format!("as torch's {form} attention decides")),
        };
        let graphs = || (device == "cpu").then(|| "not applicable on a CPU".to_owned());
        Attending {
            device: device.to_owned(),
            kv_type: setting("kv_type").unwrap_or_else(unknown),
            flash_attention: setting("flash_attention").or_else(named).unwrap_or_else(unknown),
            cuda_graphs: setting("cuda_graphs").or_else(graphs).unwrap_or_else(unknown),
        }
    }
}

/// An engine's settings with what is known of it beside them; what it says itself counts.
pub fn completed(
    said: &BTreeMap<String, String>,
    known: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    known.iter().chain(said).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::record::{EngineId, EngineRow, Quality};
    use barelm_protocol::Hello;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn greeting(name: &str, device: &str, pairs: &[(&str, &str)]) -> Row {
        let hello = Hello { device: device.into(), settings: settings(pairs), ..Hello::default() };
        let (name, hello) = (name.to_owned(), Some(hello));
        Row::Engine(EngineRow { name, hello, command: Vec::new(), program_sha256: None, missing: None })
    }

    #[test]
    fn measurements_say_more_than_greetings() {
        let id = |name: &str, pairs: &[(&str, &str)]| EngineId {
            name: name.into(),
            device: "cpu".into(),
            settings: settings(pairs),
            ..EngineId::default()
        };
        let measured = Row::Quality(Quality {
            engine: id("b", &[("kv_type", "f16")]),
            model: Default::default(),
            ids: Vec::new(),
            kl: None,
            kl_samples: Vec::new(),
            top1_wrong: None,
            quantization_kl: None,
            missing: None,
            wrong: None,
        });
        let rows = [
            greeting("a", "cuda", &[("kv_type", "f32"), ("cuda_graphs", "off")]),
            greeting("b", "cpu", &[("attention", "eager")]),
            measured,
        ];
        let a = Attending::of(&rows, "a");
        assert_eq!((&*a.kv_type, &*a.flash_attention, &*a.cuda_graphs), ("f32", "unknown", "off"));
        let b = Attending::of(&rows, "b");
        assert_eq!((&*b.kv_type, &*b.flash_attention), ("f16", "off: eager attention"));
        assert_eq!(b.cuda_graphs, "not applicable on a CPU");
        // Of an engine that nothing is known of, nothing is said; on an unknown device graphs may be.
        let none = Attending::of(&rows, "c");
        assert_eq!((&*none.device, &*none.kv_type, &*none.cuda_graphs), ("unknown", "unknown", "unknown"));
    }

    #[test]
    fn what_an_engine_says_counts() {
        let known = settings(&[("kv_type", "f32"), ("x", "1")]);
        let all = completed(&settings(&[("kv_type", "f16"), ("y", "2")]), &known);
        assert_eq!(all, settings(&[("kv_type", "f16"), ("x", "1"), ("y", "2")]));
    }
}
