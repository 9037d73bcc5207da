//! What a view is.

use std::io;

use crate::view::board::Board;
use crate::view::news::News;

/// A way to show runs. An error means that nobody reads any more.
pub(crate) trait View {
    /// Shows news that the board has taken in already.
    fn news(&mut self, board: &Board, news: &News) -> io::Result<()>;

    /// Shows a remark of this command's own.
    fn remark(&mut self, text: &str) -> io::Result<()>;

    /// Whether time alone changes what is shown.
    fn moves(&self) -> bool {
        false
    }

    /// Shows that time has passed.
    fn tick(&mut self, _board: &Board) -> io::Result<()> {
        Ok(())
    }

    /// Shows the end of everything.
    fn finish(&mut self, board: &Board) -> io::Result<()>;
}
