//! A bar chart without a library: one panel per kind of packets, logarithmic, as 1,000 linear rules dwarf the rest.

use std::fmt::Write as _;

use super::report::Row;

const NAMES: f64 = 260.0;
const BARS: f64 = 560.0;
const LINE: f64 = 20.0;
const TOP: f64 = 50.0;

/// An SVG document; bars are medians, whiskers go from the least to the greatest.
pub fn draw(title: &str, rows: &[Row]) -> String {
    let times = || rows.iter().filter_map(|row| row.nanoseconds);
    let low = decade(times().map(|time| time.min).fold(f64::INFINITY, f64::min).log10().floor());
    let high = decade(times().map(|time| time.max).fold(0.0, f64::max).log10().ceil());
    let scale = |value: f64| NAMES + BARS * (value.log10() - low) / (high - low).max(1.0);
    let mut body = String::new();
    let mut y = TOP;
    let mut family = "";
    for row in rows {
        if row.family != family {
            family = row.family;
            y += LINE * 0.8;
            let middle = y + LINE * 0.7;
            push(&mut body, format_args!("<text x=\"8\" y=\"{middle:.0}\" font-weight=\"bold\">{family}</text>"));
            y += LINE;
        }
        bar(&mut body, row, y, &scale);
        y += LINE;
    }
    let mut grid = String::new();
    let mut exponent = low;
    while exponent <= high {
        let (x, label) = (scale(10_f64.powf(exponent)), 10_f64.powf(exponent));
        push(&mut grid, format_args!("<path d=\"M{x:.1} {TOP}V{y:.0}\" stroke=\"#ccc\"/>"));
        push(
            &mut grid,
            format_args!("<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label} ns</text>", TOP - 6.0),
        );
        exponent += 1.0;
    }
    let (width, height) = (NAMES + BARS + 80.0, y + 12.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"8\" y=\"18\" font-size=\"14\">{}</text>\n{grid}{body}</svg>",
        escape(title),
    )
}

fn bar(body: &mut String, row: &Row, y: f64, scale: &impl Fn(f64) -> f64) {
    let text = y + LINE * 0.7;
    let name = escape(&row.contestant);
    push(body, format_args!("<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{name}</text>", NAMES - 6.0));
    let Some(time) = row.nanoseconds else {
        push(body, format_args!("<text x=\"{NAMES}\" y=\"{text:.0}\">delivered nothing</text>"));
        return;
    };
    let colour = match row.contestant.split([' ', ',', ':']).next() {
        Some("dataplane") => "#2a7",
        Some("kernel") => "#888",
        Some("floor") => "#bbb",
        _ => "#47b",
    };
    let (end, height, middle) = (scale(time.median), LINE * 0.7, y + LINE * 0.45);
    let width = end - NAMES;
    push(
        body,
        format_args!(
            "<rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
            y + 2.0
        ),
    );
    let (from, to) = (scale(time.min), scale(time.max));
    push(body, format_args!("<path d=\"M{from:.1} {middle:.1}H{to:.1}\" stroke=\"#000\"/>"));
    let flag = if row.lossy_rounds > 0 { " (loss)" } else { "" };
    push(body, format_args!("<text x=\"{:.1}\" y=\"{text:.0}\">{:.0}{flag}</text>", to + 5.0, time.median));
}

/// A bound that can be drawn, also when nothing was measured.
fn decade(exponent: f64) -> f64 {
    if exponent.is_finite() { exponent } else { 1.0 }
}

pub(super) fn push(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(out, "{line}");
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
