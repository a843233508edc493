//! Aligned columns.

use std::fmt::Write as _;

/// What a cell means, shown by colour where there are colours. Never by colour alone: the words say it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Doubtful,
    Bad,
}

impl Tone {
    /// `text` in this tone.
    pub(super) fn paint(self, text: &str, is_coloured: bool) -> String {
        let colour = match self {
            _ if !is_coloured => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Good => 32,
            Self::Doubtful => 33,
            Self::Bad => 31,
        };
        format!("\x1b[{colour}m{text}\x1b[0m")
    }
}

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows under a header, to be rendered with columns as wide as their widest cell and two spaces between them. An empty
/// cell is shown as `-`, so that every row has the same number of words for `awk` and the like, as long as no cell has
/// spaces.
#[derive(Debug)]
pub(super) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as the header has.
    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.header.len());
        self.rows.push(cells.into());
    }

    /// Puts a column with the same text in every row before the others. Where there is a column of its title already it takes
    /// `otherwise` for one.
    pub(super) fn lead_with(&mut self, title: &'static str, otherwise: &'static str, text: &str) {
        let title = if self.header.contains(&title) { otherwise } else { title };
        self.header.insert(0, title);
        self.rows.iter_mut().for_each(|row| row.insert(0, text.into()));
    }

    /// Adds the rows of another table with the same header.
    pub(super) fn append(&mut self, other: Self) {
        debug_assert_eq!(self.header, other.header);
        self.rows.extend(other.rows);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn render(&self, is_coloured: bool) -> String {
        let shown: Vec<Vec<(String, Tone)>> =
            self.rows.iter().map(|row| row.iter().map(|cell| (visible(&cell.text), cell.tone)).collect()).collect();
        let width = |column: usize| {
            let cells = shown.iter().map(|row| row[column].0.chars().count());
            cells.chain([self.header[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let header = self.header.iter().map(|title| ((*title).to_owned(), Tone::Plain)).collect();
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&shown) {
            let mut line = String::new();
            for ((cell, tone), width) in row.iter().zip(&widths) {
                let padding = width - cell.chars().count();
                // Writing to a string cannot fail.
                let _ = write!(line, "{}{:padding$}  ", tone.paint(cell, is_coloured), "");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn visible(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { single_line(text) }
}

/// Text that can break neither a table nor the terminal: parts of what is shown come from files and other nodes.
pub(super) fn single_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "DETAIL"]);
        table.row(["a".into(), Cell::toned("captured", Tone::Good), "".into()]);
        table.row(["a-long-name".into(), Cell::toned("failed", Tone::Bad), "no\nsuch\x1b[2J file".into()]);
        table
    }

    #[test]
    fn tables_of_several_nodes_become_one_with_a_column_for_the_node() {
        let of = |node: &str| {
            let mut table = table();
            table.lead_with("NODE", "AGENT", node);
            table
        };
        let mut all = of("n1");
        all.append(of("n2"));
        let text = all.render(false);
        let firsts: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(firsts, ["NODE", "n1", "n1", "n2", "n2"]);
        // Workloads have a node of their own, which is another matter than whose agent knows them.
        all.lead_with("NODE", "AGENT", "n3");
        assert!(all.render(false).starts_with("AGENT"));
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        assert_eq!(
            table().render(false),
            "NAME         STATE     DETAIL\n\
             a            captured  -\n\
             a-long-name  failed    no\u{fffd}such\u{fffd}[2J file\n"
        );
    }

    #[test]
    fn colours_do_not_move_columns() {
        let coloured = table().render(true);
        assert!(coloured.contains("\x1b[32mcaptured\x1b[0m  -"), "{coloured:?}");
        let plain = coloured.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
        assert_eq!(plain, table().render(false));
    }
}
