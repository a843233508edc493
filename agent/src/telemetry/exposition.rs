//! Metrics as text.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// In which of its formats a scraper wants the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4, which everything understands.
    Prometheus,
}

impl Exposition {
    /// The format for the `Accept` header of a request: OpenMetrics for those that name it (without refusing it by
    /// `q=0`), the older one for everyone else.
    pub fn for_accept(accept: &str) -> Self {
        let names_open_metrics = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("application/openmetrics-text"));
            is_named && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if names_open_metrics { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    pub(super) fn render(self, registry: &Registry) -> String {
        let mut open_metrics = String::new();
        // Writing to a string cannot fail; a collector that does leaves out the rest.
        let _ = text::encode(&mut open_metrics, registry);
        match self {
            Self::OpenMetrics => open_metrics,
            Self::Prometheus => to_prometheus(&open_metrics),
        }
    }
}

/// OpenMetrics as the older format has it: a counter's description stands under the name of its samples, with
/// `_total`; there is no type `info`, and neither unit nor end mark.
fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let kind = lines.peek().and_then(|line| line.strip_prefix("# TYPE ")).and_then(|line| line.split_once(' '));
            match (kind, help.split_once(' ')) {
                (Some((name, "counter")), Some((_, help))) => {
                    text.push_str(&format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"));
                    lines.next();
                    continue;
                }
                (Some((name, "info")), Some((_, help))) => {
                    text.push_str(&format!("# HELP {name}_info {help}\n# TYPE {name}_info gauge\n"));
                    lines.next();
                    continue;
                }
                _ => {}
            }
        } else if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_those_who_name_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Exposition::for_accept(prometheus), Exposition::OpenMetrics);
        for accept in ["", "*/*", "text/plain;version=0.0.4", "application/openmetrics-text;q=0, */*"] {
            assert_eq!(Exposition::for_accept(accept), Exposition::Prometheus, "{accept}");
        }
    }

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let open_metrics = "# HELP weft_log_dropped Lines lost.\n# TYPE weft_log_dropped counter\n\
                            weft_log_dropped_total 3\n# HELP weft_build Build.\n# TYPE weft_build info\n\
                            weft_build_info{version=\"1\"} 1\n# HELP a_bytes B.\n# TYPE a_bytes gauge\n\
                            # UNIT a_bytes bytes\na_bytes 1\n# EOF\n";
        assert_eq!(
            to_prometheus(open_metrics),
            "# HELP weft_log_dropped_total Lines lost.\n# TYPE weft_log_dropped_total counter\n\
             weft_log_dropped_total 3\n# HELP weft_build_info Build.\n# TYPE weft_build_info gauge\n\
             weft_build_info{version=\"1\"} 1\n# HELP a_bytes B.\n# TYPE a_bytes gauge\na_bytes 1\n"
        );
    }
}
