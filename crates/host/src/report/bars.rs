//! A figure an engine, as bars: the one picture for a page that has room for one.

use std::fmt::Write;

use super::chart::{COLORS, MARKS, escape, short, standalone_style};

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Whose it is.
    pub name: String,
    /// How long it is.
    pub value: f64,
    /// Ends of the interval around the value.
    pub range: Option<[f64; 2]>,
    /// Number of its color.
    pub color: usize,
}

/// Bars from the longest to the shortest, as a file of its own; `None` of none.
pub fn svg(title: &str, unit: &str, bars: &[Bar]) -> Option<String> {
    let mut bars: Vec<_> = bars.iter().filter(|bar| bar.value.is_finite() && bar.value >= 0.0).collect();
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    let ends = bars.iter().map(|bar| bar.range.map_or(bar.value, |range| range[1].max(bar.value)));
    let longest = ends.fold(0.0, f64::max);
    if longest == 0.0 {
        return None;
    }
    let (left, right, row) = (170.0, 90.0, 26.0);
    let width = 720.0;
    let height = 40.0 + row * bars.len() as f64;
    let place = |value: f64| left + value / longest * (width - left - right);
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>{0}</title><style>{1}{MARKS}</style><rect class="back" width="{width}" height="{height}"/><text x="8" y="20">{0}</text>"#,
        escape(title),
        standalone_style()
    );
    for (at, bar) in bars.iter().enumerate() {
        let top = 34.0 + row * at as f64;
        let _ = write!(
            out,
            r#"<g class="s{}"><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text><rect class="swatch" x="{left}" y="{top:.1}" width="{:.1}" height="16" rx="2"/>"#,
            bar.color % COLORS,
            left - 8.0,
            top + 12.0,
            escape(&bar.name),
            place(bar.value) - left
        );
        if let Some([low, high]) = bar.range {
            let _ = write!(
                out,
                r#"<path class="axis" d="M{:.1} {:.1}H{:.1}"/>"#,
                place(low),
                top + 8.0,
                place(high)
            );
        }
        let end = place(bar.range.map_or(bar.value, |range| range[1].max(bar.value)));
        let _ = write!(
            out,
            r#"<text x="{:.1}" y="{:.1}">{} {}</text></g>"#,
            end + 8.0,
            top + 12.0,
            short(bar.value),
            escape(unit)
        );
    }
    out.push_str("</svg>");
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_first_and_lengths_are_values() {
        let bar = |name: &str, value: f64| Bar { name: name.into(), value, range: None, color: 0 };
        let svg =
            svg("t", "tok/s", &[bar("half", 50.0), bar("<whole>", 100.0), bar("none", f64::NAN)]).unwrap();
        let (whole, half) = (svg.find("&lt;whole&gt;").unwrap(), svg.find("half").unwrap());
        assert!(whole < half && !svg.contains(">none<"));
        assert!(svg.contains(r#"width="460.0""#) && svg.contains(r#"width="230.0""#), "{svg}");
        assert_eq!(super::svg("t", "", &[]), None);
        assert_eq!(super::svg("t", "", &[bar("zero", 0.0)]), None);
    }
}
