//! What results are held against: the documented lines, our own tighter ones, and documented predictions.

use super::ModelSize;

/// How much a case weighs in the latency of inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criticality {
    /// Decides the latency.
    Critical,
    /// Adds much to it.
    High,
    /// Adds something.
    Medium,
    /// Adds next to nothing.
    Low,
}

impl Criticality {
    /// Its name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// The lines for one case. All times are nanoseconds per unit of the case's work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The case.
    pub case: &'static str,
    /// What one unit is, after "us/".
    pub per: &'static str,
    /// The documented pass line, if the documents have one for this case.
    pub documented_ns: Option<f64>,
    /// How critical the documents call it.
    pub criticality: Option<Criticality>,
    /// Our own line: about twice what the work itself (loads, fmas, stores in 128-bit registers; 30 instructions a
    /// character of text) takes on one core at 1 GHz and one instruction a cycle. A goal, met or not.
    pub ours_ns: f64,
    /// Documented expectation for a Cortex-A53 at 1 GHz: a prediction, never measured by its authors.
    pub a53_ns: Option<f64>,
    /// Documented expectation for a Cortex-A72 at 2 GHz: a prediction.
    pub a72_ns: Option<f64>,
    /// Whether a kernel table does the work, so that scalar and vector differ.
    pub has_tables: bool,
}

/// The micro-cases in the order of the summary.
pub const TARGETS: &[Target] = &[
    Target {
        case: "tokenization",
        per: "100 chars",
        documented_ns: Some(10_000.0),
        criticality: Some(Criticality::Medium),
        ours_ns: 6_000.0,
        a53_ns: Some(8_000.0),
        a72_ns: Some(4_000.0),
        has_tables: false,
    },
    Target {
        case: "q4_0_dequant",
        per: "block",
        documented_ns: Some(2_000.0),
        criticality: Some(Criticality::High),
        ours_ns: 80.0,
        a53_ns: Some(1_500.0),
        a72_ns: Some(700.0),
        has_tables: true,
    },
    Target {
        case: "dot_product",
        per: "384 dot",
        documented_ns: Some(1_000.0),
        criticality: Some(Criticality::High),
        ours_ns: 700.0,
        a53_ns: Some(800.0),
        a72_ns: Some(400.0),
        has_tables: true,
    },
    Target {
        case: "matvec_f32",
        per: "384x384",
        documented_ns: Some(500_000.0),
        criticality: Some(Criticality::Critical),
        ours_ns: 250_000.0,
        a53_ns: Some(450_000.0),
        a72_ns: Some(225_000.0),
        has_tables: true,
    },
    Target {
        case: "matvec_q4_0",
        per: "384x384",
        documented_ns: Some(500_000.0),
        criticality: Some(Criticality::Critical),
        ours_ns: 150_000.0,
        a53_ns: None,
        a72_ns: None,
        has_tables: true,
    },
    Target {
        case: "rms_norm",
        per: "384 norm",
        documented_ns: None,
        criticality: None,
        ours_ns: 1_500.0,
        a53_ns: None,
        a72_ns: None,
        has_tables: true,
    },
    Target {
        case: "layer_norm",
        per: "384 norm",
        documented_ns: Some(10_000.0),
        criticality: Some(Criticality::Medium),
        ours_ns: 4_000.0,
        a53_ns: None,
        a72_ns: None,
        has_tables: true,
    },
    Target {
        case: "kv_append",
        per: "position",
        documented_ns: Some(1_000.0),
        criticality: Some(Criticality::High),
        ours_ns: 800.0,
        a53_ns: None,
        a72_ns: None,
        has_tables: true,
    },
    Target {
        case: "kv_read",
        per: "position",
        documented_ns: Some(1_000.0),
        criticality: Some(Criticality::High),
        ours_ns: 500.0,
        a53_ns: None,
        a72_ns: None,
        has_tables: true,
    },
    Target {
        case: "arena_alloc",
        per: "1 KiB",
        documented_ns: Some(1_000.0),
        criticality: Some(Criticality::Low),
        ours_ns: 60.0,
        a53_ns: None,
        a72_ns: None,
        has_tables: false,
    },
];

/// The lines of `case`, if it has any. Those of `tokenization` hold for any tokenizer: `tokenization/NAME`.
pub fn target(case: &str) -> Option<&'static Target> {
    let case = if case.starts_with("tokenization/") { "tokenization" } else { case };
    TARGETS.iter().find(|t| t.case == case)
}

/// The documented pass line of a whole-model case, in nanoseconds per unit: 200 ms a token for 6 layers of width 384.
pub fn whole_model_line(case: &str) -> Option<f64> {
    (case == "decode/small").then_some(200e6)
}

/// Documented tokens per second of a whole-model case on a Cortex-A with NEON at 1 GHz: a prediction.
pub fn predicted_rate(case: &str) -> Option<f64> {
    let size = case.strip_prefix("decode/")?;
    let size = ModelSize::ALL.into_iter().find(|known| known.name() == size)?;
    Some(f64::from(size.predicted_tokens_per_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_model_find_their_lines() {
        assert_eq!(target("tokenization/x"), target("tokenization"));
        assert_eq!((target("decode/small"), whole_model_line("decode/small")), (None, Some(200e6)));
        assert_eq!((predicted_rate("decode/large"), predicted_rate("prefill/large")), (Some(2.0), None));
    }
}
