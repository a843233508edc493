//! Prometheus' text format, read as far as tests need it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// What one scrape returned.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<Sample>);

/// One line of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Parses a scrape.
    ///
    /// # Errors
    /// A line is not in the format.
    pub fn parse(text: &str) -> Result<Self> {
        let is_sample = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        let parse = |line: &str| parse_sample(line).with_context(|| format!("no Prometheus sample: {line:?}"));
        text.lines().filter(is_sample).map(parse).collect::<Result<_>>().map(Self)
    }

    /// The samples called `name` that have all these labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
    }

    /// The sum of the samples called `name` that have all these labels; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.0
    }
}

/// `name{label="value",…} 1.0 [timestamp] [# exemplar]`
fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = parse_quoted(after)?;
            labels.insert(key.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads up to the closing quote, with the escapes `\\`, `\"` and `\n`.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_escapes_and_commas_are_read() {
        let metrics = Metrics::parse("# HELP a b\na{x=\"1,\\\"2\\\"\",y=\"\"} 3\na 4 1700000000\n").unwrap();
        assert_eq!(metrics.sum("a", &[("x", "1,\"2\"")]), 3.0);
        assert_eq!(metrics.sum("a", &[]), 7.0);
        assert_eq!(metrics.sum("b", &[]), 0.0);
    }

    #[test]
    fn a_line_without_a_value_is_an_error() {
        assert!(Metrics::parse("a{x=\"1\"}").is_err());
    }
}
