//! Workflow commands in a step's output: lines that begin with `::`. Splits a stream into text, which goes on at once, and
//! commands. It decides nothing and remembers only what the language asks: where a line begins, and a stop token.

use caisson_model::outcome::{Annotation, AnnotationLevel};

/// A command line longer than this is text.
pub const MAX_LINE: usize = 1 << 20;

/// A piece of a step's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Bytes for the log as they are.
    Text(Vec<u8>),
    /// A command, with its line as written (without the line's end).
    Command(Command, Vec<u8>),
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `::group::TITLE`
    Group(String),
    /// `::endgroup::`
    EndGroup,
    /// `::notice::`, `::warning::`, `::error::`
    Annotate(Annotation),
    /// `::debug::`
    Debug(String),
    /// `::add-mask::VALUE`
    AddMask(String),
    /// `::set-output name=N::VALUE`
    SetOutput {
        /// The output.
        name: String,
        /// Its value.
        value: String,
    },
    /// `::save-state name=N::VALUE`
    SaveState {
        /// The name.
        name: String,
        /// Its value.
        value: String,
    },
    /// `::stop-commands::TOKEN`; what follows is text until `::TOKEN::`.
    Stop,
    /// `::TOKEN::`, which ends that.
    Resume,
    /// `::echo::on` or `::echo::off`
    Echo(bool),
    /// A command that is not obeyed, with the reason.
    Refused {
        /// Its name.
        name: String,
        /// Why, as a sentence of a message: lower case, no full stop.
        reason: &'static str,
    },
}

/// The splitter. One per step.
#[derive(Debug, Default)]
pub struct Commands {
    line: Vec<u8>,
    at: At,
    stop: Option<String>,
}

#[derive(Debug, Default, PartialEq)]
enum At {
    /// At the beginning of a line, or after white space and perhaps one colon: it may become a command.
    #[default]
    Start,
    /// In a line that began with `::`: kept until its end.
    Command,
    /// In a line of text.
    Text,
}

impl Commands {
    /// At the beginning of a stream.
    pub fn new() -> Commands {
        Commands::default()
    }

    /// Takes the next bytes. What cannot become a command is handed on at once, a line without its end included.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Item>) {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            if self.at == At::Text {
                let end = rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
                push_text(out, text);
                rest = after;
                if end.is_some() {
                    self.at = At::Start;
                }
                continue;
            }
            rest = &rest[1..];
            self.line.push(byte);
            if byte == b'\n' {
                self.end_line(out);
            } else if self.at == At::Start {
                let begun = self.line.trim_ascii_start();
                if begun == b"::" {
                    self.at = At::Command;
                } else if !(begun.is_empty() || begun == b":") || self.line.len() > 256 {
                    self.give_up(out);
                }
            } else if self.line.len() > MAX_LINE {
                self.give_up(out);
            }
        }
    }

    /// The stream is over; a last line without an end counts.
    pub fn finish(&mut self, out: &mut Vec<Item>) {
        if !self.line.is_empty() {
            self.end_line(out);
        }
    }

    fn give_up(&mut self, out: &mut Vec<Item>) {
        push_text(out, &std::mem::take(&mut self.line));
        self.at = At::Text;
    }

    fn end_line(&mut self, out: &mut Vec<Item>) {
        let line = std::mem::take(&mut self.line);
        let command = if self.at == At::Command { self.command(&line) } else { None };
        self.at = At::Start;
        match command {
            Some(command) => {
                let shown = line.strip_suffix(b"\n").unwrap_or(&line);
                out.push(Item::Command(command, shown.strip_suffix(b"\r").unwrap_or(shown).to_vec()));
            }
            None => push_text(out, &line),
        }
    }

    fn command(&mut self, line: &[u8]) -> Option<Command> {
        let text = String::from_utf8_lossy(line);
        let rest = text.trim_start().trim_end_matches(['\r', '\n']).strip_prefix("::")?;
        let (head, data) = rest.split_once("::")?;
        if let Some(token) = &self.stop {
            if head == token && data.is_empty() {
                self.stop = None;
                return Some(Command::Resume);
            }
            return None;
        }
        let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
        let property = |wanted: &str| {
            properties.split(',').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                key.trim().eq_ignore_ascii_case(wanted).then(|| unescape_property(value))
            })
        };
        let data = unescape_data(data);
        let refused = |reason| Command::Refused { name: name.to_owned(), reason };
        let annotate = |level| {
            let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
            Command::Annotate(Annotation {
                level,
                message: data.clone(),
                title: property("title").filter(|text| !text.is_empty()),
                file: property("file").filter(|text| !text.is_empty()),
                line: number(property("line")),
                column: number(property("col")),
            })
        };
        let named = |make: fn(String, String) -> Command| match property("name").filter(|name| !name.is_empty()) {
            Some(name) => make(name, data.clone()),
            None => refused("it needs a name, as in ::set-output name=NAME::VALUE"),
        };
        Some(match name.to_ascii_lowercase().as_str() {
            "group" => Command::Group(data),
            "endgroup" => Command::EndGroup,
            "error" => annotate(AnnotationLevel::Error),
            "warning" => annotate(AnnotationLevel::Warning),
            "notice" => annotate(AnnotationLevel::Notice),
            "debug" => Command::Debug(data),
            "add-mask" if data.trim().is_empty() => refused("an empty value cannot be masked"),
            "add-mask" => Command::AddMask(data),
            "set-output" => named(|name, value| Command::SetOutput { name, value }),
            "save-state" => named(|name, value| Command::SaveState { name, value }),
            "stop-commands" => {
                let token = data.trim();
                if token.is_empty() || KNOWN.contains(&token.to_ascii_lowercase().as_str()) {
                    return Some(refused("its token must be neither empty nor the name of a command"));
                }
                self.stop = Some(token.to_owned());
                Command::Stop
            }
            "echo" => match data.trim().to_ascii_lowercase().as_str() {
                "on" => Command::Echo(true),
                "off" => Command::Echo(false),
                _ => refused("it takes on or off"),
            },
            "set-env" => refused("a line of output could come from anywhere; write NAME=VALUE to the file $GITHUB_ENV"),
            "add-path" => refused("a line of output could come from anywhere; write the directory to the file $GITHUB_PATH"),
            // What the language does not know is text, as for its reference.
            _ => return None,
        })
    }
}

const KNOWN: [&str; 14] = [
    "group",
    "endgroup",
    "error",
    "warning",
    "notice",
    "debug",
    "add-mask",
    "set-output",
    "save-state",
    "stop-commands",
    "echo",
    "set-env",
    "add-path",
    "pause-logging",
];

fn push_text(out: &mut Vec<Item>, bytes: &[u8]) {
    match out.last_mut() {
        Some(Item::Text(text)) => text.extend_from_slice(bytes),
        _ if bytes.is_empty() => {}
        _ => out.push(Item::Text(bytes.to_vec())),
    }
}

fn unescape_data(text: &str) -> String {
    text.replace("%0D", "\r").replace("%0d", "\r").replace("%0A", "\n").replace("%0a", "\n").replace("%25", "%")
}

fn unescape_property(text: &str) -> String {
    text.replace("%0D", "\r")
        .replace("%0d", "\r")
        .replace("%0A", "\n")
        .replace("%0a", "\n")
        .replace("%3A", ":")
        .replace("%3a", ":")
        .replace("%2C", ",")
        .replace("%2c", ",")
        .replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&str]) -> Vec<Item> {
        let mut commands = Commands::new();
        let mut out = Vec::new();
        pieces.iter().for_each(|piece| commands.feed(piece.as_bytes(), &mut out));
        commands.finish(&mut out);
        out
    }

    fn text(text: &str) -> Item {
        Item::Text(text.as_bytes().to_vec())
    }

    fn only_command(line: &str) -> Option<Command> {
        match split(&[line]).as_slice() {
            [Item::Command(command, _)] => Some(command.clone()),
            _ => None,
        }
    }

    #[test]
    fn lines_become_commands() {
        let annotation =
            |level, message: &str| Annotation { level, message: message.to_owned(), title: None, file: None, line: None, column: None };
        let table = [
            ("::group::Run tests\n", Command::Group("Run tests".into())),
            ("  ::endgroup::\r\n", Command::EndGroup),
            ("::add-mask::hush%0Ahush", Command::AddMask("hush\nhush".into())),
            ("::set-output name=a::b::c\n", Command::SetOutput { name: "a".into(), value: "b::c".into() }),
            ("::save-state name=a%2Cb::1", Command::SaveState { name: "a,b".into(), value: "1".into() }),
            ("::echo::ON\n", Command::Echo(true)),
            ("::error::100%25 wrong", Command::Annotate(annotation(AnnotationLevel::Error, "100% wrong"))),
            ("::ERROR::x", Command::Annotate(annotation(AnnotationLevel::Error, "x"))),
            ("::debug::x", Command::Debug("x".into())),
        ];
        for (line, expected) in table {
            assert_eq!(only_command(line), Some(expected), "{line:?}");
        }
        let placed = only_command("::warning file=a%3Ab.py,line=3,col=7,title=T%2Cx::m");
        let expected = Annotation {
            title: Some("T,x".into()),
            file: Some("a:b.py".into()),
            line: Some(3),
            column: Some(7),
            ..annotation(AnnotationLevel::Warning, "m")
        };
        assert_eq!(placed, Some(Command::Annotate(expected)));
    }

    #[test]
    fn dangerous_commands_are_refused_by_name() {
        for line in [
            "::set-env name=A::b",
            "::add-path::/tmp",
            "::stop-commands::",
            "::stop-commands::set-output",
            "::set-output::x",
            "::add-mask::",
        ] {
            assert!(matches!(only_command(line), Some(Command::Refused { .. })), "{line}");
        }
    }

    #[test]
    fn other_lines_are_text() {
        for line in ["plain\n", ":: \n", "::nope::x\n", "a ::error::b\n", ":x\n", "::\n", "::error\n", "", " \t\n"] {
            let expected = if line.is_empty() { vec![] } else { vec![text(line)] };
            assert_eq!(split(&[line]), expected, "{line:?}");
        }
    }

    #[test]
    fn text_is_not_held_back_and_commands_survive_any_cut() {
        let mut commands = Commands::new();
        let mut out = Vec::new();
        commands.feed(b"password: ", &mut out);
        assert_eq!(out, [text("password: ")]);
        let whole = "a\n::add-mask::x y\nb::c\n ::group::G\nrest";
        let expected = split(&[whole]);
        for cut in 0..whole.len() {
            assert_eq!(split(&[&whole[..cut], &whole[cut..]]), expected, "{cut}");
        }
    }

    #[test]
    fn a_stop_token_silences_until_it_returns() {
        let items = split(&["::stop-commands::t0k\n::add-mask::x\n::t0k::\n::endgroup::\n"]);
        assert!(matches!(
            items.as_slice(),
            [Item::Command(Command::Stop, _), Item::Text(_), Item::Command(Command::Resume, _), Item::Command(Command::EndGroup, _)]
        ));
    }

    #[test]
    fn an_endless_line_stays_bounded() {
        let mut commands = Commands::new();
        let mut out = Vec::new();
        commands.feed(b"::group::", &mut out);
        for _ in 0..40 {
            commands.feed(&[b'x'; 64 << 10], &mut out);
            assert!(commands.line.len() <= MAX_LINE + 1);
        }
        assert!(matches!(out.as_slice(), [Item::Text(_)]));
    }
}
