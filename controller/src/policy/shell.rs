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
    /// Where it stands, as written.
    pub(super) source: Source,
}

/// What a part of a script looks like in it: the text with its quotes, and where it begins and ends, in bytes of the text that is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    /// Its first byte.
    pub(super) start: usize,
    /// The byte after its last.
    pub(super) end: usize,
}

/// What binds a command to the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Binding {
    /// Nothing: a new line, or `;`.
    #[default]
    Loose,
    /// `&&`.
    And,
    /// `||`.
    Or,
    /// `|`.
    Pipe,
}

/// A simple command: words, and the files that its output goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// The words in order, assignments among them.
    pub(super) words: Vec<Word>,
    /// Targets of `>`, `>>` and `2>`.
    pub(super) outputs: Vec<Word>,
    /// How it hangs on the command before it.
    pub(super) binding: Binding,
    /// Where it stands, redirections with it.
    pub(super) source: Source,
}

/// `pip`, `pip3`, `pip3.12`.
pub(super) fn is_tool(name: &str, tool: &str) -> bool {
    name.strip_prefix(tool).is_some_and(|version| {
        version.is_empty() || (version.starts_with(|c: char| c.is_ascii_digit()) && version.chars().all(|c| c.is_ascii_digit() || c == '.'))
    })
}

/// The program's name. A path counts when it leads into a `bin` folder, as that of a virtual environment does.
pub(super) fn program(text: &str) -> Option<&str> {
    match text.rsplit_once('/') {
        None => Some(text),
        Some((folder, name)) => (folder == "bin" || folder.ends_with("/bin")).then_some(name),
    }
}

/// The name before the `=`, if the word is an assignment.
pub(super) fn assigned(word: &Word) -> Option<&str> {
    let (name, _) = word.text.split_once('=')?;
    let name = name.strip_suffix('+').unwrap_or(name);
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (plain && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')).then_some(name)
}

/// Contexts whose values the workflow itself spells out. All others can hold what nobody has read.
const PLAIN_CONTEXTS: [&str; 3] = ["matrix", "runner", "strategy"];

/// Stands for the value of an expression while the script is read; no script may hold it otherwise.
const VALUE: char = '\u{1}';

/// A script, taken apart.
pub(super) struct Script {
    /// Its commands in order.
    pub(super) commands: Vec<Command>,
    text: String,
    expressions: Vec<String>,
}

impl Script {
    /// What was written there, with its expressions.
    pub(super) fn written(&self, start: usize, end: usize) -> String {
        let mut expressions = self.expressions.iter().skip(self.text[..start].matches(VALUE).count());
        let mut out = String::new();
        for c in self.text[start..end].chars() {
            match c {
                VALUE => out.extend(expressions.next().map(String::as_str)),
                c => out.push(c),
            }
        }
        out
    }
}

/// The commands of a script, or why it cannot be told what they are.
pub(super) fn commands(script: &str) -> Result<Vec<Command>, &'static str> {
    Ok(read(script)?.commands)
}

/// The script with where its commands stand, or why it cannot be told what they are.
pub(super) fn read(script: &str) -> Result<Script, &'static str> {
    let mut expressions = Vec::new();
    let text = without_expressions(script, &mut expressions)?;
    let reader =
        Reader { whole: text.len(), rest: Rest(&text), commands: Vec::new(), command: Command::default(), binding: Binding::Loose };
    let commands = reader.read()?;
    Ok(Script { commands, text, expressions })
}

fn without_expressions(script: &str, expressions: &mut Vec<String>) -> Result<String, &'static str> {
    if script.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err("it holds control characters");
    }
    let template = Template::parse(script).map_err(|_| "an expression in it cannot be read")?;
    let mut text = String::new();
    for part in template.parts() {
        match part {
            caisson_expr::Part::Literal(literal) => text.push_str(literal),
            caisson_expr::Part::Expression { expression, span, .. } => {
                if !expression.contexts().iter().all(|context| PLAIN_CONTEXTS.contains(&context.to_lowercase().as_str())) {
                    return Err("an expression puts text into the script that only a run knows");
                }
                text.push(VALUE);
                expressions.push(script.get(span.start..span.end).unwrap_or_default().to_owned());
            }
        }
    }
    Ok(text)
}

/// What is still to be read.
#[derive(Clone)]
struct Rest<'t>(&'t str);

impl Rest<'_> {
    fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.0 = &self.0[next.len_utf8()..];
        Some(next)
    }

    fn next_if(&mut self, wanted: impl FnOnce(char) -> bool) -> Option<char> {
        self.peek().filter(|c| wanted(*c)).and_then(|_| self.next())
    }
}

struct Reader<'t> {
    whole: usize,
    rest: Rest<'t>,
    commands: Vec<Command>,
    command: Command,
    binding: Binding,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Vec<Command>, &'static str> {
        while let Some(next) = self.rest.peek() {
            match next {
                ' ' | '\t' => drop(self.rest.next()),
                '\n' | ';' => {
                    self.rest.next();
                    if next == ';' && self.rest.peek() == Some(';') {
                        return Err("it uses `case`");
                    }
                    self.end(Binding::Loose);
                }
                '#' => while self.rest.next_if(|c| c != '\n').is_some() {},
                '&' => {
                    self.rest.next();
                    match self.rest.next() {
                        Some('&') => self.end(Binding::And),
                        _ => return Err("it uses `&`"),
                    }
                }
                '|' => {
                    self.rest.next();
                    let binding = match self.rest.peek() {
                        Some('|') => Binding::Or,
                        Some('&') => return Err("it uses `|&`"),
                        _ => Binding::Pipe,
                    };
                    if binding == Binding::Or {
                        self.rest.next();
                    }
                    self.end(binding);
                }
                '(' | ')' => return Err("it uses parentheses: a function or a subshell"),
                '<' | '>' => self.redirection()?,
                '\\' if self.continued() => {}
                _ => self.word()?,
            }
        }
        self.end(Binding::Loose);
        Ok(self.commands)
    }

    /// Takes what was read as a command, and remembers what the next one hangs on it by.
    fn end(&mut self, next: Binding) {
        let command = std::mem::take(&mut self.command);
        if command != Command::default() {
            self.commands.push(Command { binding: self.binding, ..command });
            self.binding = next;
        } else if next != Binding::Loose {
            self.binding = next;
        }
    }

    /// How far the text was read.
    fn position(&self) -> usize {
        self.whole - self.rest.0.len()
    }

    /// Something of the command ends here that began at `start`.
    fn reached(&mut self, start: usize) {
        let end = self.position();
        let source = &mut self.command.source;
        if *source == Source::default() {
            source.start = start;
        }
        source.end = end;
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
        let start = self.position();
        self.target()?;
        self.reached(start);
        Ok(())
    }

    fn target(&mut self) -> Result<(), &'static str> {
        let input = self.rest.next() == Some('<');
        match self.rest.peek() {
            Some('<') if input => return Err("it uses a here-document"),
            Some('(') => return Err("it uses a process substitution"),
            Some('>' | '|') if !input => drop(self.rest.next()),
            Some('>') => return Err("it opens a file for reading and writing"),
            _ => {}
        }
        if self.rest.next_if(|c| c == '&').is_some() {
            let mut descriptor = String::new();
            while let Some(c) = self.rest.next_if(|c| c.is_ascii_digit() || c == '-') {
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
        let start = self.position();
        let mut word = Word { text: String::new(), literal: true, source: Source::default() };
        let mut quoted = false;
        while let Some(next) = self.rest.peek() {
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
        word.source = Source { start, end: self.position() };
        self.reached(start);
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
            match self.rest.peek().ok_or("a quote is not closed")? {
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
        match self.rest.peek() {
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
                while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || c == '_') {
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
