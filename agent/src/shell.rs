//! `shell:` to a command line and a script file.

use std::fmt;

/// A shell, settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// The program, by name or path inside the sandbox.
    pub program: String,
    /// Its arguments; the script's path stands in place of `{0}`.
    arguments: Vec<String>,
    /// The script's file name.
    pub script_name: &'static str,
}

/// A `shell:` that names none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidShell {
    /// What was written.
    pub text: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl fmt::Display for InvalidShell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the shell '{}' cannot be used: {}; write bash, sh, python or a command with {{0}} for the script",
            self.text, self.reason
        )
    }
}

impl std::error::Error for InvalidShell {}

/// What the host's system view offers, where a shell depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Whether there is a `bash`.
    pub bash: bool,
    /// Whether a plain `python` is found; else `python3` is meant.
    pub python: bool,
}

impl Shell {
    /// The shell that `text` names; the default one when there is none.
    ///
    /// # Errors
    /// A shell of another system, or a template without `{0}` or with an open quote.
    pub fn of(text: Option<&str>, offered: Offered) -> Result<Shell, InvalidShell> {
        let text = text.map(str::trim).filter(|text| !text.is_empty());
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (program, arguments, script_name) = match text {
            None if offered.bash => ("bash", words(&["-e", "{0}"]), "script.sh"),
            None | Some("sh") => ("sh", words(&["-e", "{0}"]), "script.sh"),
            Some("bash") => ("bash", words(&["--noprofile", "--norc", "-eo", "pipefail", "{0}"]), "script.sh"),
            Some("python") => (if offered.python { "python" } else { "python3" }, words(&["{0}"]), "script.py"),
            Some("pwsh") => ("pwsh", words(&["-command", ". '{0}'"]), "script.ps1"),
            Some(text @ ("cmd" | "powershell")) => {
                return Err(InvalidShell { text: text.to_owned(), reason: "it is a shell of Windows" });
            }
            Some(text) => {
                let wrong = |reason| InvalidShell { text: text.to_owned(), reason };
                if !text.contains("{0}") {
                    return Err(wrong("it is no shell that caisson knows, and no command with {0}"));
                }
                let mut words = split(text).ok_or_else(|| wrong("a quote is not closed"))?.into_iter();
                let program = words.next().filter(|word| !word.contains("{0}")).ok_or_else(|| wrong("it begins with no program"))?;
                let arguments = words.collect();
                let extension = if program.contains("python") { "script.py" } else { "script.sh" };
                return Ok(Shell { program, arguments, script_name: extension });
            }
        };
        Ok(Shell { program: program.to_owned(), arguments, script_name })
    }

    /// The arguments for a script at this path.
    pub fn arguments(&self, script: &str) -> Vec<String> {
        self.arguments.iter().map(|argument| argument.replace("{0}", script)).collect()
    }

    /// The script as it is written to its file.
    pub fn script(&self, text: &str) -> Vec<u8> {
        let mut bytes = text.replace("\r\n", "\n").into_bytes();
        if self.script_name == "script.ps1" {
            let mut strict = b"$ErrorActionPreference = 'stop'\n".to_vec();
            strict.append(&mut bytes);
            bytes = strict;
        }
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            bytes.push(b'\n');
        }
        bytes
    }
}

/// Words separated by white space, with quotes and backslashes as a shell knows them, without expansion. `None` for an open quote.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(characters.next()?),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BOTH: Offered = Offered { bash: true, python: true };

    #[test]
    fn shells_become_command_lines() {
        let none = Offered { bash: false, python: false };
        let table = [
            (None, BOTH, "bash", "-e S"),
            (None, none, "sh", "-e S"),
            (Some("bash"), BOTH, "bash", "--noprofile --norc -eo pipefail S"),
            (Some("sh"), BOTH, "sh", "-e S"),
            (Some("python"), BOTH, "python", "S"),
            (Some("python"), none, "python3", "S"),
            (Some("bash -l {0}"), BOTH, "bash", "-l S"),
            (Some("perl 'a b' {0} x"), BOTH, "perl", "a b S x"),
            (Some("  "), BOTH, "bash", "-e S"),
        ];
        for (text, offered, program, arguments) in table {
            let shell = Shell::of(text, offered).unwrap();
            assert_eq!((shell.program.as_str(), shell.arguments("S").join(" ").as_str()), (program, arguments), "{text:?}");
        }
    }

    #[test]
    fn other_shells_are_refused() {
        for text in ["cmd", "powershell", "fish", "{0}", "bash '{0}"] {
            assert!(Shell::of(Some(text), BOTH).is_err(), "{text}");
        }
    }

    #[test]
    fn scripts_have_unix_lines_and_an_end() {
        assert_eq!(Shell::of(None, BOTH).unwrap().script("a\r\nb"), b"a\nb\n");
    }
}
