//! Lines over a logarithmic axis, without a library.

use super::chart::{escape, push};

/// Where the axes are.
const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
/// Room for the names of the lines.
const NAMES: f64 = 160.0;
const COLOURS: [&str; 6] = ["#2a7", "#47b", "#c63", "#83a", "#888", "#a82"];

/// One line.
pub struct Line {
    /// Its name.
    pub name: String,
    /// Points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Whether it is dashed.
    pub dashed: bool,
}

/// An SVG document. Lines with the same first word have the same colour.
pub fn draw(title: &str, (x_label, y_label): (&str, &str), lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let low = points().map(|point| point.0).fold(f64::INFINITY, f64::min).log10().floor();
    let high = points().map(|point| point.0).fold(1.0, f64::max).log10().ceil();
    let most = points().map(|point| point.1).fold(1.0, f64::max);
    let step = 10_f64.powf(most.log10().floor()) / 2.0;
    let top = (most / step).ceil() * step;
    let x = |value: f64| LEFT + WIDTH * (value.log10() - low) / (high - low).max(1.0);
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / top);
    let mut body = String::new();
    let mut exponent = low;
    while exponent.is_finite() && exponent <= high {
        let (at, label) = (x(10_f64.powf(exponent)), 10_f64.powf(exponent));
        push(&mut body, format_args!("<path d=\"M{at:.1} {TOP}v{HEIGHT}\" stroke=\"#ccc\"/>"));
        let below = TOP + HEIGHT + 16.0;
        push(&mut body, format_args!("<text x=\"{at:.1}\" y=\"{below:.0}\" text-anchor=\"middle\">{label}</text>"));
        exponent += 1.0;
    }
    let mut value = 0.0;
    while value <= top {
        let at = y(value);
        push(&mut body, format_args!("<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#ccc\"/>"));
        let before = LEFT - 6.0;
        push(&mut body, format_args!("<text x=\"{before}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", at + 4.0));
        value += step;
    }
    let mut kinds: Vec<&str> = Vec::new();
    for line in lines {
        let kind = line.name.split(' ').next().unwrap_or_default();
        let number = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        });
        stroke(&mut body, line, COLOURS[number % COLOURS.len()], &x, &y);
    }
    let (width, height) = (LEFT + WIDTH + NAMES, TOP + HEIGHT + 46.0);
    let (middle, bottom) = (LEFT + WIDTH / 2.0, height - 8.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"8\" y=\"18\" font-size=\"14\">{}</text>\n\
         <text x=\"8\" y=\"38\">{}</text>\n<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{}</text>\n{body}</svg>",
        escape(title),
        escape(y_label),
        escape(x_label),
    )
}

fn stroke(body: &mut String, line: &Line, colour: &str, x: &impl Fn(f64) -> f64, y: &impl Fn(f64) -> f64) {
    let places: Vec<_> = line.points.iter().map(|(right, up)| (x(*right), y(*up))).collect();
    let path: Vec<_> = places.iter().map(|(right, up)| format!("{right:.1},{up:.1}")).collect();
    let dashes = if line.dashed { " stroke-dasharray=\"5 4\"" } else { "" };
    let points = path.join(" ");
    push(
        body,
        format_args!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>"),
    );
    for (right, up) in &places {
        push(body, format_args!("<circle cx=\"{right:.1}\" cy=\"{up:.1}\" r=\"3\" fill=\"{colour}\"/>"));
    }
    if let Some((right, up)) = places.last() {
        let (right, up, name) = (right + 8.0, up + 4.0, escape(&line.name));
        push(body, format_args!("<text x=\"{right:.1}\" y=\"{up:.1}\" fill=\"{colour}\">{name}</text>"));
    }
}
