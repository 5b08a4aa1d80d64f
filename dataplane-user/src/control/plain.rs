//! Metrics in the older text format of Prometheus (`text/plain; version=0.0.4`,
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>): node_exporter's textfile directory and
//! `promtool check metrics` read no other.

use std::collections::HashMap;

/// OpenMetrics text in the older format. Samples are the same in both; there a metric is described under the name of its
/// samples, has no unit of its own, and the text no mark at its end.
pub fn plain(text: &str) -> String {
    let suffixes: HashMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter_map(|(name, kind)| match kind {
            "counter" => Some((name, "_total")),
            "info" => Some((name, "_info")),
            _ => None,
        })
        .collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), rest) => {
                let suffix = suffixes.get(name).copied().unwrap_or_default();
                let rest = match (what, rest.unwrap_or_default()) {
                    ("TYPE", "info") => "gauge",
                    ("TYPE", "unknown") => "untyped",
                    (_, rest) => rest,
                };
                plain.extend(["# ", what, " ", name, suffix, " ", rest, "\n"]);
            }
            (Some("#"), Some("UNIT" | "EOF"), ..) => {}
            _ => plain.extend([line, "\n"]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn descriptions_take_the_names_of_samples() {
        let text = "# HELP a_build What is running.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                    # HELP a_rule_bytes Bytes of # TYPE x info.\n# TYPE a_rule_bytes counter\n# UNIT a_rule_bytes bytes\n\
                    a_rule_bytes_total{chain=\"in put\"} 7\n# HELP a_up Up.\n# TYPE a_up gauge\na_up 1\n# EOF\n";
        let want = "# HELP a_build_info What is running.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                    # HELP a_rule_bytes_total Bytes of # TYPE x info.\n# TYPE a_rule_bytes_total counter\n\
                    a_rule_bytes_total{chain=\"in put\"} 7\n# HELP a_up Up.\n# TYPE a_up gauge\na_up 1\n";
        assert_eq!(plain(text), want);
    }
}
