//! What was measured, by the size of the cluster.

use serde_json::{Value, json};

use crate::figures::{Required, median};
use crate::table::{Table, number};

/// What is measured of each size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// What it belongs to: `controller`.
    pub line: &'static str,
    /// What of it: `resident`.
    pub name: &'static str,
    /// Of the values.
    pub unit: &'static str,
    /// What is required, of the figure itself.
    pub required: Option<Required>,
}

/// The values of a figure for a cluster of so many pods.
type Values = (usize, Vec<f64>);

/// All figures, each with a value for each size, or several: the median counts.
#[derive(Debug, Default)]
pub struct Growth {
    rows: Vec<(Figure, Vec<Values>)>,
    notes: Vec<String>,
}

impl Figure {
    /// A figure of which nothing is required.
    pub const fn new(line: &'static str, name: &'static str, unit: &'static str) -> Self {
        Self { line, name, unit, required: None }
    }

    /// The same with a limit.
    #[must_use]
    pub const fn at_most(mut self, limit: f64) -> Self {
        self.required = Some(Required::AtMost(limit));
        self
    }
}

impl Growth {
    /// Adds a value for a cluster of so many pods.
    pub fn add(&mut self, figure: Figure, pods: usize, value: f64) {
        let at = self.rows.iter().position(|(known, _)| *known == figure).unwrap_or_else(|| {
            self.rows.push((figure, Vec::new()));
            self.rows.len() - 1
        });
        let sizes = &mut self.rows[at].1;
        match sizes.iter_mut().find(|(size, _)| *size == pods) {
            Some((_, values)) => values.push(value),
            None => sizes.push((pods, vec![value])),
        }
    }

    /// Adds something that the reader must know.
    pub fn note(&mut self, note: String) {
        eprintln!("  ! {note}");
        self.notes.push(note);
    }

    /// Everything that the reader must know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A column for each size. What is required holds for each of them.
    pub fn to_text(&self) -> String {
        let sizes = self.sizes();
        let columns: Vec<String> = sizes.iter().map(|size| format!("{size} pods")).collect();
        let mut header = vec!["line", "figure", "unit"];
        header.extend(columns.iter().map(String::as_str));
        header.extend(["required", "met"]);
        let mut table = Table::new(3, &header);
        for (figure, values) in &self.rows {
            let mut cells = [figure.line, figure.name, figure.unit].map(str::to_owned).to_vec();
            cells.extend(sizes.iter().map(|size| number(value(values, *size))));
            let limit = match figure.required {
                Some(Required::AtMost(limit)) => format!("<= {limit:.0} {}", figure.unit),
                _ => String::new(),
            };
            let met = match is_met(figure, values) {
                None => "",
                Some(true) => "yes",
                Some(false) => "NO",
            };
            cells.extend([limit, met.to_owned()]);
            table.row(cells);
        }
        table.to_text()
    }

    /// Every value.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|(figure, values)| {
            let rounds: Vec<Value> = values
                .iter()
                .map(|(pods, all)| json!({ "pods": pods, "median": median(all), "rounds": all }))
                .collect();
            let required = match figure.required {
                Some(Required::AtMost(limit)) => json!({ "at_most": limit }),
                _ => Value::Null,
            };
            json!({
                "line": figure.line, "figure": figure.name, "unit": figure.unit, "sizes": rounds,
                "required": required, "is_met": is_met(figure, values),
            })
        });
        json!({ "series": rows.collect::<Vec<_>>(), "notes": self.notes })
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> =
            self.rows.iter().flat_map(|(_, values)| values.iter().map(|(size, _)| *size)).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }
}

fn value(values: &[Values], pods: usize) -> Option<f64> {
    values.iter().find(|(size, _)| *size == pods).and_then(|(_, values)| median(values))
}

fn is_met(figure: &Figure, values: &[Values]) -> Option<bool> {
    let required = figure.required?;
    values.iter().map(|(_, values)| required.is_met(None, median(values))).reduce(|all, one| Some(all? && one?))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_holds_for_every_size() {
        let figure = Figure::new("push", "p99", "ms").at_most(250.0);
        let mut growth = Growth::default();
        for (pods, value) in [(1000, 10.0), (1000, 900.0), (1000, 12.0), (10_000, 20.0)] {
            growth.add(figure, pods, value);
        }
        assert_eq!(is_met(&figure, &growth.rows[0].1), Some(true), "medians count");
        growth.add(figure, 100_000, 251.0);
        assert_eq!(is_met(&figure, &growth.rows[0].1), Some(false));
        let text = growth.to_text();
        assert!(text.contains("100000 pods") && text.contains("<= 250 ms") && text.contains("NO"), "{text}");
    }
}
