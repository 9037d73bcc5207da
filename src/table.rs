//! Columns for people.

use crate::view::text::clean;

/// Lines of columns as wide as they need to be, the heading first. Text of others is made safe to show.
pub(crate) fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell, false).replace('\n', " ")).collect()).collect();
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).chain([heading[at].len()]).max();
    let widths: Vec<usize> = (0..heading.len()).map(|at| width(at).unwrap_or_default()).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let heading: Vec<String> = heading.iter().map(|word| word.to_uppercase()).collect();
    std::iter::once(line(&heading)).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let table = render(&["a", "name"], &[vec!["1".into(), "x\u{1b}[2Jy".into()], vec!["100".into(), "z".into()]]);
        assert!(table.starts_with("A    NAME\n1    ") && table.ends_with("100  z\n") && !table.contains('\u{1b}'), "{table}");
    }
}
