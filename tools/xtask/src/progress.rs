//! Bars and spinners: drawn on a terminal, absent in a log.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that shows that `what` goes on. It vanishes at the end.
pub fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a valid template");
    let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar over `bytes` bytes of `what`.
pub fn bytes(what: &str, bytes: u64) -> ProgressBar {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::new(bytes).with_style(style).with_message(what.to_string())
}
