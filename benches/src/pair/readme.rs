//! The figures in `benches/README.md`, between two markers, and the plot beside it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::report::Report;
use super::svg;

const BEGIN: &str = "<!-- pair: figures begin -->";
const END: &str = "<!-- pair: figures end -->";
const PLOT: &str = "results/pair.svg";

/// Writes both, in this checkout. Returns what was written.
///
/// # Errors
/// When the markers are not there, or a file cannot be written.
pub fn write(report: &Report) -> Result<Vec<PathBuf>> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (readme, plot) = (benches.join("README.md"), benches.join(PLOT));
    let text = fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let block =
        format!("{}\n![The figures with an aim, and the aims as dashed lines]({PLOT})\n", report.table());
    fs::write(&readme, replaced(&text, &block)?)?;
    if let Some(folder) = plot.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&plot, svg::plot(report)).with_context(|| format!("cannot write {}", plot.display()))?;
    Ok(vec![readme, plot])
}

fn replaced(text: &str, block: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no line {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line {END:?} after it"))?;
    Ok(format!("{before}{BEGIN}\n\n{block}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let new = replaced(&text, "new\n").unwrap();
        assert_eq!(new, format!("# Title\n{BEGIN}\n\nnew\n\n{END}\nrest\n"));
        assert_eq!(replaced(&new, "new\n").unwrap(), new);
        assert!(replaced("# Title\n", "new").is_err());
        assert!(replaced(&format!("{END}{BEGIN}"), "new").is_err());
    }

    #[test]
    fn the_readme_has_its_markers() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
        replaced(&text, "").unwrap();
    }
}
