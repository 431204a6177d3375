//! A chart as an SVG: lines, dots or steps over two axes, readable without a script.
//!
//! The drawing names no color. It carries classes (`s0` … `s7` for series), so that the page around it decides, in light
//! and in dark; [`Chart::standalone`] adds the colors for use as a picture of its own.

use std::fmt::Write;

/// Width and height of the drawing, in its own units.
const SIZE: [f64; 2] = [720.0, 400.0];
/// Room for the axes' numbers and the legend: left, top, right, bottom.
const ROOM: [f64; 4] = [64.0, 12.0, 188.0, 46.0];
/// Series that differ in color; more than these share.
pub const COLORS: usize = 8;
/// Colors for a light and a dark background, apart for most color-blind people too (after Okabe and Ito).
const PALETTE: [(&str, &str); COLORS] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#009e73", "#3ecfa3"),
    ("#b0447f", "#e690bf"),
    ("#8a6d00", "#f0c841"),
    ("#5b4fc7", "#a9a0ff"),
    ("#4d4d4d", "#c4c4c4"),
    ("#a11d21", "#ff7b7b"),
];

/// How values are laid along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero or the smallest value on.
    Linear,
    /// By their logarithm; values that have none are left out.
    Log,
}

/// One of the two axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What is laid along it, with its unit.
    pub label: String,
    /// How.
    pub scale: Scale,
}

impl Axis {
    /// An even axis.
    pub fn linear(label: impl Into<String>) -> Self {
        Axis { label: label.into(), scale: Scale::Linear }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Self {
        Axis { label: label.into(), scale: Scale::Log }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Dots, joined.
    Line,
    /// Dots.
    Dots,
    /// A staircase, as of a distribution.
    Steps,
    /// A dashed line without dots: a limit.
    Limit,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Along the first axis.
    pub x: f64,
    /// Along the second.
    pub y: f64,
    /// Ends of an interval around `y`.
    pub range: Option<[f64; 2]>,
    /// What to say of it beside its values.
    pub note: String,
}

impl Point {
    /// A value without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Point { x, y, range: None, note: String::new() }
    }
}

/// Values that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As in the legend.
    pub name: String,
    /// Number of its color.
    pub color: usize,
    /// How it is drawn.
    pub mark: Mark,
    /// In the order in which they are joined.
    pub points: Vec<Point>,
}

/// Adds a point to the series of this name, which is made where it is not there.
pub fn add(all: &mut Vec<Series>, name: String, color: usize, mark: Mark, point: Point) {
    match all.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push(point),
        None => all.push(Series { name, color, mark, points: vec![point] }),
    }
}

/// A drawing with its axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
}

/// Where values of an axis lie in the drawing.
struct Span {
    scale: Scale,
    /// Least and greatest value shown.
    values: [f64; 2],
    /// Where these are.
    places: [f64; 2],
}

impl Span {
    /// Holds all of `values`, from zero on where the axis is even and none is below.
    fn around(scale: Scale, values: impl Iterator<Item = f64>, places: [f64; 2]) -> Option<Self> {
        let (low, high) = values
            .filter(|&value| shown(scale, value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return None;
        }
        let values = match scale {
            Scale::Linear if low >= 0.0 => [0.0, if high > 0.0 { high * 1.05 } else { 1.0 }],
            Scale::Linear => [low, if high > low { high } else { low + 1.0 }],
            Scale::Log => [low / 1.15, high * 1.15],
        };
        Some(Span { scale, values, places })
    }

    fn place(&self, value: f64) -> f64 {
        let [low, high] = self.values;
        let part = match self.scale {
            Scale::Linear => (value - low) / (high - low),
            Scale::Log => (value / low).ln() / (high / low).ln(),
        };
        self.places[0] + part.clamp(0.0, 1.0) * (self.places[1] - self.places[0])
    }

    /// Round values to write at the axis.
    fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.values;
        match self.scale {
            Scale::Linear => {
                let step = round_step((high - low) / 6.0);
                let first = (low / step).ceil() as i64;
                let last = (high / step).floor() as i64;
                (first..=last).map(|k| k as f64 * step).collect()
            }
            Scale::Log => {
                let decades = (high / low).log10();
                let within: &[f64] = if decades > 4.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let exponents = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let all = exponents.flat_map(|e| within.iter().map(move |m| m * power_of_ten(e)));
                all.filter(|&value| value >= low && value <= high).collect()
            }
        }
    }
}

/// Whether an axis can show a value at all.
fn shown(scale: Scale, value: f64) -> bool {
    value.is_finite() && (scale == Scale::Linear || value > 0.0)
}

fn power_of_ten(exponent: i32) -> f64 {
    libm::pow(10.0, exponent.into())
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = power_of_ten(least.log10().floor() as i32);
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= least * 0.999);
    step.unwrap_or(10.0) * power
}

/// A number with as many digits as a reader needs: three, and thousands as `k`, `M`, `G`.
pub fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e12 => (value / 1e12, "T"),
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        v => (2.0 - v.log10().floor()).min(9.0) as usize,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Text for HTML and SVG, in an element or a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

impl Chart {
    /// The drawing for a page that styles it. Without a value to show, a sentence instead.
    pub fn svg(&self) -> String {
        self.draw("").unwrap_or_else(|| format!("<p>{}: nothing measured.</p>", escape(&self.title)))
    }

    /// The drawing as a file of its own, which follows the reader's light or dark; `None` without a value to show.
    pub fn standalone(&self) -> Option<String> {
        self.draw(&format!("<style>{}{MARKS}</style>", standalone_style()))
    }

    fn draw(&self, style: &str) -> Option<String> {
        let [left, top, right, bottom] = ROOM;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let ys = points().flat_map(|p| [p.y].into_iter().chain(p.range.into_iter().flatten()));
        let x = Span::around(self.x.scale, points().map(|p| p.x), [left, SIZE[0] - right])?;
        let y = Span::around(self.y.scale, ys, [SIZE[1] - bottom, top])?;
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {} {}" role="img"><title>{}</title>{style}<rect class="back" width="{}" height="{}"/>"#,
            SIZE[0],
            SIZE[1],
            escape(&self.title),
            SIZE[0],
            SIZE[1]
        );
        self.axes(&mut svg, &x, &y);
        for (at, series) in self.series.iter().enumerate() {
            series.draw(&mut svg, at, &x, &y, [&self.x.label, &self.y.label]);
        }
        self.legend(&mut svg);
        svg.push_str("</svg>");
        Some(svg)
    }

    fn axes(&self, svg: &mut String, x: &Span, y: &Span) {
        let [x0, x1] = x.places;
        let [y0, y1] = y.places;
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = write!(
                svg,
                r#"<path class="grid" d="M{at:.1} {y0:.1}V{y1:.1}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                y0 + 16.0,
                short(tick)
            );
        }
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = write!(
                svg,
                r#"<path class="grid" d="M{x0:.1} {at:.1}H{x1:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                x0 - 6.0,
                at + 4.0,
                short(tick)
            );
        }
        let _ = write!(
            svg,
            r#"<path class="axis" d="M{x0:.1} {y1:.1}V{y0:.1}H{x1:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text><text transform="translate(14 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            f64::midpoint(x0, x1),
            SIZE[1] - 8.0,
            escape(&self.x.label),
            f64::midpoint(y0, y1),
            escape(&self.y.label)
        );
    }

    fn legend(&self, svg: &mut String) {
        let left = SIZE[0] - ROOM[2] + 12.0;
        for (at, series) in self.series.iter().enumerate() {
            let line = ROOM[1] + 10.0 + 18.0 * at as f64;
            let _ = write!(
                svg,
                r#"<g class="key s{}" data-series="{at}"><rect class="swatch" x="{left}" y="{:.1}" width="10" height="10" rx="2"/><text x="{:.1}" y="{:.1}">{}</text></g>"#,
                series.color % COLORS,
                line - 9.0,
                left + 15.0,
                line,
                escape(&series.name)
            );
        }
    }
}

/// Colors of a picture that is a file of its own, for a light and a dark background.
pub fn standalone_style() -> String {
    format!(
        "text{{font:12px system-ui,sans-serif;fill:#222}}.grid{{stroke:#ddd}}.axis{{stroke:#888;fill:none}}.back{{fill:#fff}}{}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}.grid{{stroke:#333}}.back{{fill:#15181c}}{}}}",
        color_rules(false),
        color_rules(true)
    )
}

/// How marks look, whatever their color.
pub const MARKS: &str = ".line{fill:none;stroke:currentColor;stroke-width:2}.limit{fill:none;stroke:currentColor;stroke-width:1.5;stroke-dasharray:6 4}.dot,.swatch{fill:currentColor}.range{stroke:currentColor;stroke-width:1.5;opacity:.6}";

impl Series {
    fn draw(&self, svg: &mut String, number: usize, x: &Span, y: &Span, labels: [&str; 2]) {
        let fits = |p: &&Point| shown(x.scale, p.x) && shown(y.scale, p.y);
        let points: Vec<_> = self.points.iter().filter(fits).collect();
        let _ = write!(svg, r#"<g class="series s{}" data-series="{number}">"#, self.color % COLORS);
        let mut path = String::new();
        for (at, point) in points.iter().enumerate() {
            let (px, py) = (x.place(point.x), y.place(point.y));
            let _ = match (at, self.mark) {
                (0, _) => write!(path, "M{px:.1} {py:.1}"),
                (_, Mark::Steps) => write!(path, "H{px:.1}V{py:.1}"),
                _ => write!(path, "L{px:.1} {py:.1}"),
            };
        }
        let class = if self.mark == Mark::Limit { "limit" } else { "line" };
        if self.mark != Mark::Dots && points.len() > 1 {
            let _ = write!(svg, r#"<path class="{class}" d="{path}"/>"#);
        }
        if matches!(self.mark, Mark::Line | Mark::Dots) {
            points.iter().for_each(|point| self.dot(svg, point, x, y, labels));
        }
        svg.push_str("</g>");
    }

    fn dot(&self, svg: &mut String, point: &Point, x: &Span, y: &Span, labels: [&str; 2]) {
        let (px, py) = (x.place(point.x), y.place(point.y));
        if let Some([low, high]) = point.range.filter(|ends| ends.iter().all(|&end| shown(y.scale, end))) {
            let _ =
                write!(svg, r#"<path class="range" d="M{px:.1} {:.1}V{:.1}"/>"#, y.place(low), y.place(high));
        }
        let range = point.range.map(|[low, high]| format!(" ({} to {})", short(low), short(high)));
        let note = if point.note.is_empty() { String::new() } else { format!("\n{}", point.note) };
        let text = format!(
            "{}\n{}: {}\n{}: {}{}{note}",
            self.name,
            labels[0],
            short(point.x),
            labels[1],
            short(point.y),
            range.unwrap_or_default()
        );
        let _ = write!(
            svg,
            r#"<circle class="dot" cx="{px:.1}" cy="{py:.1}" r="4"><title>{}</title></circle>"#,
            escape(&text)
        );
    }
}

/// The colors as a style sheet's rules, of a light background or of a dark one.
pub fn color_rules(dark: bool) -> String {
    let mut rules = String::new();
    for (at, (light, night)) in PALETTE.iter().enumerate() {
        let _ = write!(rules, ".s{at}{{color:{}}}", if dark { night } else { light });
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)], scale: Scale) -> Chart {
        let points = points.iter().map(|&(x, y)| Point::new(x, y)).collect();
        Chart {
            title: "a < b".into(),
            x: Axis { label: "x".into(), scale },
            y: Axis::linear("y"),
            series: vec![Series { name: "one & two".into(), color: 9, mark: Mark::Line, points }],
        }
    }

    #[test]
    fn every_value_has_its_dot_where_its_axes_say() {
        let svg = chart(&[(1.0, 10.0), (10.0, 20.0), (100.0, 0.0)], Scale::Log).svg();
        assert_eq!(svg.matches("<circle").count(), 3);
        // The middle of three decades is in the middle of the axis.
        let middle = f64::midpoint(ROOM[0], SIZE[0] - ROOM[2]);
        assert!(svg.contains(&format!(r#"cx="{middle:.1}""#)), "{svg}");
        // Zero lies on the axis.
        assert!(svg.contains(&format!(r#"cy="{:.1}""#, SIZE[1] - ROOM[3])));
        assert!(svg.contains("a &lt; b") && svg.contains("one &amp; two") && !svg.contains("one & two"));
        // Colors repeat.
        assert!(svg.contains(r#"class="series s1""#));
    }

    #[test]
    fn what_an_axis_cannot_show_is_left_out() {
        let svg = chart(&[(0.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (2.0, 3.0)], Scale::Log).svg();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(chart(&[], Scale::Linear).standalone(), None);
        assert!(chart(&[], Scale::Linear).svg().contains("nothing measured"));
    }

    #[test]
    fn ticks_are_round_and_within() {
        let span = Span::around(Scale::Linear, [0.0, 47.0].into_iter(), [0.0, 1.0]).unwrap();
        assert_eq!(span.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0]);
        let span = Span::around(Scale::Log, [3.0, 150.0].into_iter(), [0.0, 1.0]).unwrap();
        assert_eq!(span.ticks(), [5.0, 10.0, 20.0, 50.0, 100.0]);
        let span = Span::around(Scale::Linear, [-2.0, -2.0].into_iter(), [0.0, 1.0]).unwrap();
        assert!(span.ticks().iter().all(|tick| (-2.0..=-1.0).contains(tick)));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.004321, "0.00432"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (999.6, "1000"),
            (12_345.0, "12.3k"),
            (2e6, "2M"),
            (-3.2e9, "-3.2G"),
        ];
        for (value, text) in cases {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn a_picture_of_its_own_brings_its_colors_for_both_backgrounds() {
        let svg = chart(&[(1.0, 2.0)], Scale::Linear).standalone().unwrap();
        assert!(
            svg.contains("prefers-color-scheme:dark")
                && svg.contains(PALETTE[1].0)
                && svg.contains(PALETTE[1].1)
        );
    }
}
