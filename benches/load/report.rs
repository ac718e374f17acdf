//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::goals::goals;
use crate::kind::Kind;
use crate::row::Row;

/// All rows, in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// What went wrong.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, work: &str, kind: Kind, figure: &'static str, value: f64) {
        let known = self
            .rows
            .iter_mut()
            .find(|row| row.work == work && row.figure == figure);
        let samples = match known {
            Some(row) => &mut row.samples,
            None => {
                self.rows.push(Row {
                    work: work.to_owned(),
                    figure,
                    samples: BTreeMap::new(),
                });
                match self.rows.last_mut() {
                    Some(row) => &mut row.samples,
                    None => return,
                }
            }
        };
        samples.entry(kind).or_default().push(value);
    }

    /// Medians and ratios, as a table of Markdown that is a table to the eye, too.
    pub(crate) fn table(&self) -> String {
        let mut head = vec!["work".to_owned(), "unit".to_owned()];
        head.extend(Kind::ALL.map(|kind| kind.name().to_owned()));
        head.extend(["ssr/rust", "ssr/libev", "goal", ""].map(str::to_owned));
        let mut lines = vec![head];
        for row in &self.rows {
            let mut line = vec![row.work.clone(), row.figure.to_owned()];
            line.extend(Kind::ALL.map(|kind| row.median(kind).map(short).unwrap_or_default()));
            for other in [Kind::Rust, Kind::Libev] {
                let ratio = row.ratio(other).map(|ratio| format!("{ratio:.2}"));
                line.push(ratio.unwrap_or_default());
            }
            let goals = goals(&row.work, row.figure);
            let texts: Vec<String> = goals.iter().map(|goal| goal.text()).collect();
            let verdicts: Vec<&str> = goals
                .iter()
                .map(|goal| match goal.is_met(row, &self.rows) {
                    Some(true) => "pass",
                    Some(false) => "FAIL",
                    None => "?",
                })
                .collect();
            line.extend([texts.join(", "), verdicts.join(", ")]);
            lines.push(line);
        }
        draw(&lines)
    }

    /// The same with every sample.
    pub(crate) fn json(&self, about: Map<String, Value>) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let by_kind = |value: &dyn Fn(Kind) -> Option<Value>| -> Map<String, Value> {
                    let kinds = row.samples.keys();
                    kinds
                        .filter_map(|kind| Some((kind.name().to_owned(), value(*kind)?)))
                        .collect()
                };
                let goals: Vec<Value> = goals(&row.work, row.figure)
                    .into_iter()
                    .map(|goal| json!({"goal": goal.text(), "met": goal.is_met(row, &self.rows)}))
                    .collect();
                json!({
                    "work": row.work,
                    "unit": row.figure,
                    "medians": by_kind(&|kind| row.median(kind).map(Value::from)),
                    "ratios": by_kind(&|kind| row.ratio(kind).map(Value::from)),
                    "samples": by_kind(&|kind| row.samples.get(&kind).cloned().map(Value::from)),
                    "goals": goals,
                })
            })
            .collect();
        json!({"about": about, "rows": rows, "failures": self.failures})
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn draw(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Figures stand to the right.
            let is_figure = (2..columns.saturating_sub(2)).contains(&column);
            text += &match is_figure {
                true => format!("| {cell:>width$} "),
                false => format!("| {cell:<width$} "),
            };
        }
        text += "|\n";
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let is_figure = (2..columns.saturating_sub(2)).contains(&column);
                text += &format!(
                    "|{}{}",
                    "-".repeat(width + 1),
                    if is_figure { ":" } else { "-" }
                );
            }
            text += "|\n";
        }
    }
    text
}
