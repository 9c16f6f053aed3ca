//! The figures as a picture: for each that has an aim, a bar for everybody, and a line where Signet's has to end.

use std::fmt::Write as _;

use super::aims::outcomes;
use super::peers::Peer;
use super::report::Report;
use super::table::{ROWS, Row};
use crate::numbers::number;

const COLUMNS: usize = 2;
const PANEL: (usize, usize) = (430, 170);
const TITLE: usize = 30;
const LABEL: usize = 74;
const VALUE: usize = 60;
const BAR: usize = 15;
const STEP: usize = 21;

/// A whole SVG document.
pub(super) fn plot(report: &Report) -> String {
    let outcomes = outcomes(report);
    let panels: Vec<(&Row, Option<f64>)> = ROWS
        .iter()
        .filter_map(|row| {
            let outcome = outcomes.iter().find(|of| of.load == row.load.name() && of.figure == row.figure)?;
            // Where the aim is about what is added, that much is there without anybody's doing.
            let without = row.value(report, Peer::None).filter(|_| outcome.what.contains("added"));
            Some((row, Some(outcome.aim * outcome.reference / row.unit + without.unwrap_or_default())))
        })
        .collect();
    let height = panels.len().div_ceil(COLUMNS) * PANEL.1 + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        COLUMNS * PANEL.0
    );
    for (index, (row, aim)) in panels.iter().enumerate() {
        let (x, y) = (index % COLUMNS * PANEL.0 + 10, index / COLUMNS * PANEL.1 + 10);
        svg += &panel(report, row, *aim, x, y);
    }
    svg + "</svg>\n"
}

fn panel(report: &Report, row: &Row, aim: Option<f64>, x: usize, y: usize) -> String {
    let bars: Vec<(Peer, f64)> =
        report.peers().into_iter().filter_map(|peer| Some((peer, row.value(report, peer)?))).collect();
    let most = bars.iter().map(|(_, value)| *value).chain(aim).fold(f64::MIN_POSITIVE, f64::max);
    let room = (PANEL.0 - LABEL - VALUE - 20) as f64;
    let width = |value: f64| value.max(0.0) / most * room;
    let mut svg = format!("<g transform=\"translate({x} {y})\">\n");
    let _ = writeln!(
        svg,
        "<text y=\"14\" font-weight=\"bold\" fill=\"#222222\">{}: {}</text>",
        row.load.name(),
        row.what
    );
    for (index, (peer, value)) in bars.iter().enumerate() {
        let top = TITLE + index * STEP;
        let colour = if *peer == Peer::Signet { "#0b7a75" } else { "#b8bfc6" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#222222\">{}</text>\
             <rect x=\"{LABEL}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\" fill=\"#222222\">{}</text>",
            LABEL - 6,
            top + BAR - 3,
            peer.name(),
            width(*value),
            LABEL as f64 + width(*value) + 5.0,
            top + BAR - 3,
            number(*value)
        );
    }
    if let Some(aim) = aim {
        let (at, bottom) = (LABEL as f64 + width(aim), TITLE + bars.len() * STEP);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#c0392b\" \
             stroke-dasharray=\"4 3\"/>",
            TITLE - 4
        );
    }
    svg + "</g>\n"
}

#[cfg(test)]
mod tests {
    use super::super::loads::{CPU_US, Load, Sample};
    use super::*;

    #[test]
    fn each_aim_has_a_panel_with_a_bar_for_everybody_and_a_line() {
        let mut report = Report::empty();
        for (peer, value) in [(Peer::Signet, 50.0), (Peer::Envoy, 100.0), (Peer::Nginx, 80.0)] {
            report.add(Load::Grpc, peer, Ok(Sample::from([(CPU_US, value)])));
        }
        let svg = plot(&report);
        assert_eq!(svg.matches("<g ").count(), 1);
        assert_eq!(svg.matches("<line ").count(), 1);
        let longest = format!("width=\"{}.0\"", PANEL.0 - LABEL - VALUE - 20);
        assert!(svg.contains(&longest), "Envoy's bar is as long as there is room: {svg}");
        assert_eq!(svg.matches("#0b7a75").count(), 1);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
