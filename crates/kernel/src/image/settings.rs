//! What `set` changes: how tokens are picked, how many, and whether the prompt goes through the chat template.

use core::fmt;

use crate::llm::sampler::{Sampler, SamplerConfig, SamplerError};

/// Settings of answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How tokens are picked.
    pub sampler: SamplerConfig,
    /// Tokens of an answer at most.
    pub tokens: usize,
    /// Continue the prompt as it stands, without a chat template.
    pub raw: bool,
}

/// Every setting, for a person.
pub const NAMES: &str =
    "temperature, top_k, top_p, min_p, repetition_penalty, repeat_last, seed, tokens or raw";

/// Most tokens that a penalty can be told to look at, so that a slip of the finger takes no gigabytes.
const MOST_REPEAT: usize = 65_536;

/// Why a setting stays as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SetError {
    /// No such setting.
    Unknown,
    /// The value is no number of the kind it must be.
    Value(&'static str),
    /// The value is out of range.
    Range(SamplerError),
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => write!(f, "no such setting; there are {NAMES}"),
            Self::Value(wanted) => write!(f, "the value must be {wanted}"),
            Self::Range(error) => error.fmt(f),
        }
    }
}

impl Settings {
    /// Changes one; on an error all stay as they are.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SetError> {
        let mut new = *self;
        let float = || decimal(value).ok_or(SetError::Value("a number such as 0.7"));
        let count = || value.parse::<usize>().map_err(|_| SetError::Value("a whole number"));
        let sampler = &mut new.sampler;
        match name {
            "temperature" => sampler.temperature = float()?,
            "top_k" => sampler.top_k = count()?,
            "top_p" => sampler.top_p = float()?,
            "min_p" => sampler.min_p = float()?,
            "repetition_penalty" => sampler.repetition_penalty = float()?,
            "repeat_last" => {
                let range = SetError::Value("a whole number, 65536 at most");
                sampler.repeat_last = Some(count()?).filter(|&n| n <= MOST_REPEAT).ok_or(range)?;
            }
            "seed" => sampler.seed = value.parse().map_err(|_| SetError::Value("a whole number"))?,
            "tokens" => {
                let tokens = count()?;
                new.tokens = Some(tokens).filter(|&n| n > 0).ok_or(SetError::Value("1 or more"))?;
            }
            "raw" => {
                new.raw = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(SetError::Value("0 or 1")),
                }
            }
            _ => return Err(SetError::Unknown),
        }
        // The sampler knows the ranges; the size of the vocabulary is not among them.
        Sampler::try_new(new.sampler, 1).map_err(SetError::Range)?;
        *self = new;
        Ok(())
    }
}

/// A number in digits, with a point and a sign if it has them: 15 digits at most and no exponent.
///
/// `core` reads every form to the nearest value with tables of 16 KiB; this rounds to f64 first, then to f32.
fn decimal(text: &str) -> Option<f32> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = || whole.bytes().chain(part.bytes());
    if !(1..=15).contains(&digits().count()) || !digits().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Both are whole numbers that f64 holds exactly.
    let number = digits().fold(0, |number, byte| number * 10 + u64::from(byte - b'0'));
    let value = (number as f64 / 10u64.pow(part.len() as u32) as f64) as f32;
    Some(if negative { -value } else { value })
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.sampler;
        write!(
            f,
            "temperature {}  top_k {}  top_p {}  min_p {}  repetition_penalty {}  repeat_last {}  seed {}  tokens {}  raw {}",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repetition_penalty,
            s.repeat_last,
            s.seed,
            self.tokens,
            u8::from(self.raw)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    const START: Settings = Settings {
        sampler: SamplerConfig {
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.0,
            repeat_last: 64,
            seed: 0,
        },
        tokens: 48,
        raw: false,
    };

    #[test]
    fn every_setting_can_be_changed_and_is_shown() {
        let mut settings = START;
        for name in NAMES.split([',', ' ']).filter(|name| !name.is_empty() && *name != "or") {
            assert_eq!(settings.set(name, "1"), Ok(()), "{name}");
            assert!(format!("{settings}").contains(&format!("{name} 1")), "{name}");
        }
    }

    #[test]
    fn numbers_are_read_as_core_reads_them() {
        for thousandths in 0..20_000 {
            let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            assert_eq!(decimal(&text), text.parse().ok(), "{text}");
        }
        for text in ["1", "1.", ".5", "-0.25", "007", "123456789012345", "0.00000000000001", "99999999.9"] {
            assert_eq!(decimal(text), text.parse().ok(), "{text}");
        }
        for text in
            ["", ".", "-", "+1", "--1", "1e3", "1.2.3", " 1", "1 ", "nan", "inf", "١", "1234567890123456"]
        {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn bad_values_change_nothing() {
        for (name, value) in [
            ("temperature", "warm"),
            ("temperature", "-1"),
            ("temperature", "NaN"),
            ("temperature", "inf"),
            ("top_p", "2"),
            ("min_p", "-0.5"),
            ("repetition_penalty", "0"),
            ("repeat_last", "18446744073709551615"),
            ("top_k", "-3"),
            ("tokens", "0"),
            ("seed", "1.5"),
            ("raw", "yes"),
            ("colour", "red"),
            ("", ""),
        ] {
            let mut settings = START;
            let error = settings.set(name, value).unwrap_err();
            assert_eq!(settings, START, "{name}={value}");
            assert!(!format!("{error}").is_empty());
        }
    }
}
