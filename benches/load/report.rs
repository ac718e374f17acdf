//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::goals::goals;
use crate::proxy::Proxy;
use crate::row::Row;

/// All rows, in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    /// Runs that failed, and why.
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn add(&mut self, workload: &str, proxy: Proxy, figure: &'static str, value: f64) {
        let known = self
            .rows
            .iter_mut()
            .find(|row| row.workload == workload && row.figure == figure);
        let samples = match known {
            Some(row) => &mut row.samples,
            None => {
                self.rows.push(Row {
                    workload: workload.to_owned(),
                    figure,
                    samples: BTreeMap::new(),
                });
                match self.rows.last_mut() {
                    Some(row) => &mut row.samples,
                    None => return,
                }
            }
        };
        samples.entry(proxy).or_default().push(value);
    }

    /// Medians and ratios as a Markdown table with aligned columns.
    pub(crate) fn table(&self) -> String {
        let mut head = vec!["workload".to_owned(), "unit".to_owned()];
        head.extend(Proxy::ALL.map(|proxy| proxy.name().to_owned()));
        head.extend(["ssr/rust", "ssr/libev", "goal", ""].map(str::to_owned));
        let mut lines = vec![head];
        for row in &self.rows {
            let mut line = vec![row.workload.clone(), row.figure.to_owned()];
            line.extend(Proxy::ALL.map(|proxy| row.median(proxy).map(short).unwrap_or_default()));
            for other in [Proxy::Rust, Proxy::Libev] {
                let ratio = row.ratio(other).map(|ratio| format!("{ratio:.2}"));
                line.push(ratio.unwrap_or_default());
            }
            let goals = goals(&row.workload, row.figure);
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

    /// Medians, ratios and every sample.
    pub(crate) fn json(&self, about: Map<String, Value>) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let by_proxy = |value: &dyn Fn(Proxy) -> Option<Value>| -> Map<String, Value> {
                    let proxies = row.samples.keys();
                    proxies
                        .filter_map(|proxy| Some((proxy.name().to_owned(), value(*proxy)?)))
                        .collect()
                };
                let goals: Vec<Value> = goals(&row.workload, row.figure)
                    .into_iter()
                    .map(|goal| json!({"goal": goal.text(), "met": goal.is_met(row, &self.rows)}))
                    .collect();
                json!({
                    "work": row.workload,
                    "unit": row.figure,
                    "medians": by_proxy(&|proxy| row.median(proxy).map(Value::from)),
                    "ratios": by_proxy(&|proxy| row.ratio(proxy).map(Value::from)),
                    "samples": by_proxy(&|proxy| row.samples.get(&proxy).cloned().map(Value::from)),
                    "goals": goals,
                })
            })
            .collect();
        json!({"about": about, "rows": rows, "failures": self.failures})
    }
}

/// Three significant digits.
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
            // Figures are aligned to the right.
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
