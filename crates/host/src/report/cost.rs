//! What tokens cost: a price of an hour divided by the tokens of an hour.
//!
//! Prices change and differ by contract, so none is built in. A file of prices says for each where it comes from and of
//! which day it is; without one, cost is drawn over the price of an hour, for the reader to put in theirs.

use std::path::Path;

use serde::Deserialize;

use super::chart::{Axis, Chart, Mark, Point, Series};
use crate::failure::Failure;

/// Prices of an hour that charts span.
const HOURS: [f64; 2] = [0.01, 10.0];

/// Prices of machines.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// One for each machine.
    #[serde(default, rename = "price")]
    pub prices: Vec<Price>,
}

/// What an hour of a machine costs, by whose word.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The machine, as records name it.
    pub machine: String,
    /// Of an hour.
    pub per_hour: f64,
    /// As ISO 4217 has it: `EUR`.
    pub currency: String,
    /// Who says so.
    pub source: String,
    /// When it was looked up: `2026-11-21`.
    pub date: String,
}

impl Prices {
    /// Reads a file of prices.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown field, or a price that says not where it is from, of which day it is, or how
    /// much.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::because(path.display(), error))?;
        Self::parse(&text).map_err(|error| Failure::because(path.display(), error))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let prices: Prices = toml::from_str(text).map_err(|error| error.to_string())?;
        for price in &prices.prices {
            let wrong = |what: &str| Err(format!("the price of `{}`: {what}", price.machine));
            if price.machine.trim().is_empty() {
                return wrong("name the machine as its records do");
            }
            if !(price.per_hour.is_finite() && price.per_hour > 0.0) {
                return wrong("per_hour must be above zero");
            }
            if price.currency.len() != 3 || !price.currency.bytes().all(|b| b.is_ascii_uppercase()) {
                return wrong("currency must be three capital letters");
            }
            if price.source.trim().is_empty() {
                return wrong("say where it is from in `source`");
            }
            if !is_date(&price.date) {
                return wrong("say of which day it is in `date`, as 2026-11-21");
            }
        }
        Ok(prices)
    }

    /// The price of a machine.
    pub fn of(&self, machine: &str) -> Option<&Price> {
        self.prices.iter().find(|price| price.machine == machine)
    }
}

/// `2026-11-21`.
fn is_date(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |part: &str, digits: usize| {
        (part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<u32>().ok())?
    };
    number(year, 4).is_some()
        && number(month, 2).is_some_and(|m| (1..=12).contains(&m))
        && number(day, 2).is_some_and(|d| (1..=31).contains(&d))
}

/// What a million tokens cost at so many tokens a second.
pub fn per_million(per_hour: f64, tokens_per_s: f64) -> f64 {
    per_hour * 1e6 / (tokens_per_s * 3600.0)
}

/// Cost of a million tokens over the price of an hour, a line for each named speed in tokens a second.
pub fn chart(speeds: &[(String, f64)]) -> Chart {
    let series = speeds.iter().enumerate().map(|(color, (name, speed))| {
        let points = HOURS.map(|hour| Point::new(hour, per_million(hour, *speed)));
        Series { name: name.clone(), color, mark: Mark::Line, points: points.to_vec() }
    });
    Chart {
        title: "Cost of a million output tokens, by what an hour of the machine costs".into(),
        x: Axis::log("price of an hour"),
        y: Axis::log("cost of a million tokens"),
        series: series.collect(),
    }
}

/// How many times the price of the first machine's hour the second's may be, for tokens to cost the same.
pub fn break_even(first_tokens_per_s: f64, second_tokens_per_s: f64) -> f64 {
    second_tokens_per_s / first_tokens_per_s
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[[price]]\nmachine = \"pi5\"\nper_hour = 0.02\ncurrency = \"EUR\"\nsource = \"power bill\"\ndate = \"2026-11-21\"\n";

    #[test]
    fn a_price_says_where_it_is_from_and_of_when() {
        let prices = Prices::parse(GOOD).unwrap();
        assert_eq!(prices.of("pi5").unwrap().per_hour, 0.02);
        assert_eq!(prices.of("pi4"), None);
        assert_eq!(Prices::parse("# none yet\n").unwrap(), Prices::default());
        for (from, to, why) in [
            ("source = \"power bill\"\n", "", "source"),
            ("\"power bill\"", "\" \"", "source"),
            ("2026-11-21", "yesterday", "date"),
            ("2026-11-21", "2026-13-21", "date"),
            ("0.02", "0.0", "above zero"),
            ("0.02", "nan", "above zero"),
            ("EUR", "euro", "capital"),
            ("currency", "currencies", "currencies"),
        ] {
            let error = Prices::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn the_file_that_ships_names_no_price() {
        let shipped = Prices::parse(include_str!("../../../../benches/prices.toml")).unwrap();
        assert_eq!(shipped, Prices::default());
    }

    #[test]
    fn cost_is_price_over_tokens() {
        // 1000 tokens a second are 3.6 million an hour.
        assert!((per_million(3.6, 1000.0) - 1.0).abs() < 1e-12);
        assert_eq!(break_even(100.0, 2500.0), 25.0);
        let points = &chart(&[("a".into(), 1000.0)]).series[0].points;
        assert!((points[1].y / points[0].y - HOURS[1] / HOURS[0]).abs() < 1e-6);
    }
}
