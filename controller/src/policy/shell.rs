//! A reader of shell scripts that knows when it does not understand. It takes simple commands apart, and gives up at
//! anything by which a script can run what it does not plainly say: substitutions, here-documents, functions, groups,
//! loops, background jobs.

use caisson_expr::Template;

/// A word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Its text without quotes. Variables stand in it as written.
    pub(super) text: String,
    /// Whether the text is what the command sees: nothing is expanded in it.
    pub(super) literal: bool,
}

/// A simple command: words, and the files that its output goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// The words in order, assignments among them.
    pub(super) words: Vec<Word>,
    /// Targets of `>`, `>>` and `2>`.
    pub(super) outputs: Vec<Word>,
}

/// Contexts whose values the workflow itself spells out. All others can hold what nobody has read.
const PLAIN_CONTEXTS: [&str; 3] = ["matrix", "runner", "strategy"];

/// Stands for the value of an expression while the script is read; no script may hold it otherwise.
const VALUE: char = '\u{1}';

/// The commands of a script, or why it cannot be told what they are.
pub(super) fn commands(script: &str) -> Result<Vec<Command>, &'static str> {
    let text = without_expressions(script)?;
    Reader { rest: text.chars().peekable(), commands: Vec::new(), command: Command::default() }.read()
}

fn without_expressions(script: &str) -> Result<String, &'static str> {
    if script.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err("it holds control characters");
    }
    let template = Template::parse(script).map_err(|_| "an expression in it cannot be read")?;
    let mut text = String::new();
    for part in template.parts() {
        match part {
            caisson_expr::Part::Literal(literal) => text.push_str(literal),
            caisson_expr::Part::Expression { expression, .. } => {
                if !expression.contexts().iter().all(|context| PLAIN_CONTEXTS.contains(&context.to_lowercase().as_str())) {
                    return Err("an expression puts text into the script that only a run knows");
                }
                text.push(VALUE);
            }
        }
    }
    Ok(text)
}

struct Reader<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    commands: Vec<Command>,
    command: Command,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Vec<Command>, &'static str> {
        while let Some(next) = self.rest.peek().copied() {
            match next {
                ' ' | '\t' => drop(self.rest.next()),
                '\n' | ';' => {
                    self.rest.next();
                    if next == ';' && self.rest.peek() == Some(&';') {
                        return Err("it uses `case`");
                    }
                    self.end();
                }
                '#' => while self.rest.next_if(|c| *c != '\n').is_some() {},
                '&' => {
                    self.rest.next();
                    match self.rest.next() {
                        Some('&') => self.end(),
                        _ => return Err("it uses `&`"),
                    }
                }
                '|' => {
                    self.rest.next();
                    match self.rest.peek() {
                        Some('|') => drop(self.rest.next()),
                        Some('&') => return Err("it uses `|&`"),
                        _ => {}
                    }
                    self.end();
                }
                '(' | ')' => return Err("it uses parentheses: a function or a subshell"),
                '<' | '>' => self.redirection()?,
                '\\' if self.continued() => {}
                _ => self.word()?,
            }
        }
        self.end();
        Ok(self.commands)
    }

    fn end(&mut self) {
        let command = std::mem::take(&mut self.command);
        if command != Command::default() {
            self.commands.push(command);
        }
    }

    /// Takes a backslash at the end of a line.
    fn continued(&mut self) -> bool {
        let mut ahead = self.rest.clone();
        if ahead.next() == Some('\\') && ahead.next() == Some('\n') {
            self.rest = ahead;
            return true;
        }
        false
    }

    fn redirection(&mut self) -> Result<(), &'static str> {
        let input = self.rest.next() == Some('<');
        match self.rest.peek() {
            Some('<') if input => return Err("it uses a here-document"),
            Some('(') => return Err("it uses a process substitution"),
            Some('>' | '|') if !input => drop(self.rest.next()),
            Some('>') => return Err("it opens a file for reading and writing"),
            _ => {}
        }
        if self.rest.next_if_eq(&'&').is_some() {
            let mut descriptor = String::new();
            while let Some(c) = self.rest.next_if(|c| c.is_ascii_digit() || *c == '-') {
                descriptor.push(c);
            }
            return if descriptor.is_empty() { Err("it redirects to what cannot be told") } else { Ok(()) };
        }
        while self.rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() || self.continued() {}
        let before = self.command.words.len();
        match self.rest.peek() {
            None | Some('\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' | '#') => return Err("a redirection names no file"),
            _ => self.word()?,
        }
        let target = self.command.words.split_off(before);
        if !input {
            self.command.outputs.extend(target);
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), &'static str> {
        let mut word = Word { text: String::new(), literal: true };
        let mut quoted = false;
        while let Some(next) = self.rest.peek().copied() {
            match next {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' => break,
                '\\' => {
                    if self.continued() {
                        continue;
                    }
                    self.rest.next();
                    word.text.push(self.rest.next().ok_or("it ends in a backslash")?);
                    quoted = true;
                }
                '\'' => {
                    self.rest.next();
                    quoted = true;
                    loop {
                        match self.rest.next() {
                            Some('\'') => break,
                            Some(c) => word.text.push(c),
                            None => return Err("a quote is not closed"),
                        }
                    }
                }
                '"' => {
                    self.rest.next();
                    quoted = true;
                    self.double_quoted(&mut word)?;
                }
                '`' => return Err("it uses a command substitution"),
                '$' => self.variable(&mut word)?,
                VALUE | '*' | '?' | '[' | '{' | '~' => {
                    word.literal = word.literal && matches!(next, '[') && word.text.is_empty();
                    self.rest.next();
                    word.text.push(next);
                }
                _ => {
                    self.rest.next();
                    word.text.push(next);
                }
            }
        }
        // `2>` is no word but says which output is meant.
        let descriptor = !quoted && !word.text.is_empty() && word.text.chars().all(|c| c.is_ascii_digit());
        if descriptor && matches!(self.rest.peek(), Some('<' | '>')) {
            return Ok(());
        }
        self.command.words.push(word);
        Ok(())
    }

    fn double_quoted(&mut self, word: &mut Word) -> Result<(), &'static str> {
        loop {
            match self.rest.peek().copied().ok_or("a quote is not closed")? {
                '"' => {
                    self.rest.next();
                    return Ok(());
                }
                '`' => return Err("it uses a command substitution"),
                '$' => self.variable(word)?,
                '\\' if self.continued() => {}
                '\\' => {
                    self.rest.next();
                    match self.rest.next().ok_or("a quote is not closed")? {
                        c @ ('"' | '\\' | '$' | '`') => word.text.push(c),
                        c => word.text.extend(['\\', c]),
                    }
                }
                c => {
                    // A value put in here may hold a quote of its own: only the words around it would change, and the
                    // contexts that are let through are written in the workflow.
                    word.literal &= c != VALUE;
                    self.rest.next();
                    word.text.push(c);
                }
            }
        }
    }

    /// `$NAME`, `${NAME}`, `$1`, `$?` and the like. Everything else after a `$` can run or compute something.
    fn variable(&mut self, word: &mut Word) -> Result<(), &'static str> {
        self.rest.next();
        word.text.push('$');
        match self.rest.peek().copied() {
            Some('(') => return Err("it uses a command substitution"),
            Some('\'' | '"') => return Err("it uses `$'...'` quotes"),
            Some('[') => return Err("it uses arithmetic"),
            Some('{') => {
                self.rest.next();
                let mut name = String::new();
                loop {
                    match self.rest.next() {
                        Some('}') => break,
                        Some(c) if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
                        _ => return Err("it uses `${...}` with more than a name"),
                    }
                }
                word.literal = false;
                word.text.push_str(&name);
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                word.literal = false;
                while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    word.text.push(c);
                }
            }
            Some(c) if c.is_ascii_digit() || matches!(c, '?' | '@' | '*' | '#' | '$' | '!' | '-') => {
                word.literal = false;
                self.rest.next();
                word.text.push(c);
            }
            _ => {}
        }
        Ok(())
    }
}
