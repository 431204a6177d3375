//! What a report says, apart from how it is written: as one HTML file, as Markdown, or its tables as CSV.

use std::fmt::Write;

use super::chart::{Chart, MARKS, color_rules, escape};

/// Look of the page; colors of charts are added from the charts' own.
const STYLE: &str = include_str!("page.css");
/// Sorting of tables, and series that are shown and hidden by their key.
const SCRIPT: &str = include_str!("page.js");

/// A whole report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Its name.
    pub title: String,
    /// What a reader must know before believing anything.
    pub warnings: Vec<String>,
    /// The answer, in sentences.
    pub summary: Vec<String>,
    /// The rest.
    pub sections: Vec<Section>,
}

/// A part with a heading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// In order.
    pub parts: Vec<Part>,
}

/// Something to read.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A paragraph.
    Text(String),
    /// A list.
    List(Vec<String>),
    /// Commands or output, as they are.
    Code(String),
    /// A table that readers may sort.
    Table(Table),
    /// A drawing.
    Chart(Chart),
}

/// Cells under column names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows; also its name as a CSV file.
    pub name: String,
    /// One name a column.
    pub columns: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// As written.
    pub text: String,
    /// What it is sorted by, and what CSV holds; without it the text.
    pub value: Option<f64>,
    /// How it is meant.
    pub tone: Tone,
}

/// How a cell is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// Ours is ahead.
    Good,
    /// Ours is behind, or something failed.
    Bad,
    /// There is nothing, for the reason in the cell.
    Missing,
}

impl Cell {
    /// A word.
    pub fn text(text: impl Into<String>) -> Self {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number as `text` writes it.
    pub fn number(value: f64, text: impl Into<String>) -> Self {
        Cell { text: text.into(), value: Some(value), tone: Tone::Plain }
    }

    /// A reason in place of a value.
    pub fn missing(why: impl Into<String>) -> Self {
        Cell { text: why.into(), value: None, tone: Tone::Missing }
    }

    /// The same, meant so.
    pub fn toned(self, tone: Tone) -> Self {
        Cell { tone, ..self }
    }
}

impl Page {
    /// One file that needs nothing else: no network, and no script to be read.
    pub fn html(&self) -> String {
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{}</title>\n<style>{STYLE}\n{MARKS}{}@media(prefers-color-scheme:dark){{{}}}</style></head><body>\n<h1>{}</h1>\n",
            escape(&self.title),
            color_rules(false),
            color_rules(true),
            escape(&self.title)
        );
        for warning in &self.warnings {
            let _ = writeln!(out, "<p class=\"warning\">{}</p>", escape(warning));
        }
        for sentence in &self.summary {
            let _ = writeln!(out, "<p class=\"summary\">{}</p>", escape(sentence));
        }
        out.push_str("<nav>");
        for (at, section) in self.sections.iter().enumerate() {
            let _ = write!(out, "<a href=\"#s{at}\">{}</a> ", escape(&section.heading));
        }
        out.push_str("</nav>\n");
        for (at, section) in self.sections.iter().enumerate() {
            let _ = writeln!(out, "<section id=\"s{at}\"><h2>{}</h2>", escape(&section.heading));
            section.parts.iter().for_each(|part| part.html(&mut out));
            out.push_str("</section>\n");
        }
        let _ = writeln!(out, "<script>{SCRIPT}</script></body></html>");
        out
    }

    /// The text and the tables; drawings are left to the HTML file.
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n", self.title);
        for line in self.warnings.iter().chain(&self.summary) {
            let _ = write!(out, "\n{line}\n");
        }
        for section in &self.sections {
            let _ = write!(out, "\n## {}\n", section.heading);
            section.parts.iter().for_each(|part| part.markdown(&mut out));
        }
        out
    }

    /// All tables, each with a file name and its text.
    pub fn csv(&self) -> Vec<(String, String)> {
        let parts = self.sections.iter().flat_map(|section| &section.parts);
        let tables = parts.filter_map(|part| match part {
            Part::Table(table) => Some((format!("{}.csv", file_name(&table.name)), table.csv())),
            _ => None,
        });
        tables.collect()
    }
}

/// Letters and digits of a name, the rest as single dashes.
fn file_name(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

impl Part {
    fn html(&self, out: &mut String) {
        let _ = match self {
            Self::Text(text) => writeln!(out, "<p>{}</p>", escape(text)),
            Self::List(items) => {
                let items: String = items.iter().map(|item| format!("<li>{}</li>", escape(item))).collect();
                writeln!(out, "<ul>{items}</ul>")
            }
            Self::Code(text) => writeln!(out, "<pre>{}</pre>", escape(text)),
            Self::Table(table) => writeln!(out, "{}", table.html()),
            Self::Chart(chart) => {
                writeln!(
                    out,
                    "<figure>{}<figcaption>{}</figcaption></figure>",
                    chart.svg(),
                    escape(&chart.title)
                )
            }
        };
    }

    fn markdown(&self, out: &mut String) {
        let _ = match self {
            Self::Text(text) => write!(out, "\n{text}\n"),
            Self::List(items) => {
                let items: String = items.iter().map(|item| format!("- {item}\n")).collect();
                write!(out, "\n{items}")
            }
            Self::Code(text) => write!(out, "\n```text\n{text}\n```\n"),
            Self::Table(table) => write!(out, "\n{}", table.markdown()),
            Self::Chart(_) => Ok(()),
        };
    }
}

impl Table {
    /// Whether a column holds numbers, which stand at its right.
    fn numeric(&self, column: usize) -> bool {
        self.rows.iter().any(|row| row[column].value.is_some())
    }

    fn html(&self) -> String {
        let mut out =
            format!("<div class=\"wide\"><table><caption>{}</caption><thead><tr>", escape(&self.name));
        for (at, column) in self.columns.iter().enumerate() {
            let class = if self.numeric(at) { " class=\"number\"" } else { "" };
            let _ = write!(out, "<th{class}><button type=\"button\">{}</button></th>", escape(column));
        }
        out.push_str("</tr></thead><tbody>");
        for row in &self.rows {
            assert_eq!(row.len(), self.columns.len(), "{}", self.name);
            out.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let tone = match cell.tone {
                    Tone::Plain => "",
                    Tone::Good => "good ",
                    Tone::Bad => "bad ",
                    Tone::Missing => "missing ",
                };
                let number = if self.numeric(at) && cell.value.is_some() { "number" } else { "" };
                let value = cell.value.map(|value| format!(" data-value=\"{value}\"")).unwrap_or_default();
                let _ = write!(out, "<td class=\"{tone}{number}\"{value}>{}</td>", escape(&cell.text));
            }
            out.push_str("</tr>");
        }
        out.push_str("</tbody></table></div>");
        out
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let mut out = line(&mut self.columns.iter().cloned());
        let rule = |at| if self.numeric(at) { "---:" } else { "---" };
        out.push_str(&line(&mut (0..self.columns.len()).map(|at| rule(at).to_owned())));
        for row in &self.rows {
            out.push_str(&line(&mut row.iter().map(|cell| cell.text.clone())));
        }
        out
    }

    /// As RFC 4180 has it, numbers with all their digits.
    pub fn csv(&self) -> String {
        let field = |text: &str| match text.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        let mut out = self.columns.iter().map(|name| field(name)).collect::<Vec<_>>().join(",");
        out.push_str("\r\n");
        for row in &self.rows {
            let cells =
                row.iter().map(|cell| cell.value.map_or_else(|| field(&cell.text), |v| v.to_string()));
            out.push_str(&cells.collect::<Vec<_>>().join(","));
            out.push_str("\r\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let table = Table {
            name: "Who & what".into(),
            columns: vec!["engine".into(), "tokens/s".into()],
            rows: vec![
                vec![Cell::text("a|b \"c\", d"), Cell::number(12.3456, "12.3").toned(Tone::Good)],
                vec![Cell::text("<script>"), Cell::missing("no such format")],
            ],
        };
        Page {
            title: "T".into(),
            warnings: vec!["careful".into()],
            summary: vec!["1 < 2".into()],
            sections: vec![Section {
                heading: "H".into(),
                parts: vec![
                    Part::Table(table),
                    Part::List(vec!["one".into()]),
                    Part::Code("x > y".into()),
                    Part::Text("end".into()),
                ],
            }],
        }
    }

    #[test]
    fn html_holds_everything_and_needs_nothing() {
        let html = page().html();
        for part in ["1 &lt; 2", "&lt;script&gt;", "data-value=\"12.3456\"", "class=\"missing \"", "x &gt; y"]
        {
            assert!(html.contains(part), "{part}");
        }
        for address in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(address), "{address}");
        }
        assert!(html.trim_end().ends_with("</html>"));
    }

    #[test]
    fn markdown_keeps_cells_apart() {
        let markdown = page().markdown();
        assert!(markdown.contains("| a\\|b \"c\", d | 12.3 |\n| <script> | no such format |"), "{markdown}");
        assert!(markdown.contains("| --- | ---: |"));
    }

    #[test]
    fn csv_holds_all_digits() {
        let tables = page().csv();
        assert_eq!(tables.len(), 1);
        assert_eq!(tables[0].0, "who-what.csv");
        assert_eq!(
            tables[0].1,
            "engine,tokens/s\r\n\"a|b \"\"c\"\", d\",12.3456\r\n<script>,no such format\r\n"
        );
    }
}
