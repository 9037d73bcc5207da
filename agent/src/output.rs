//! A step's output on its way: bytes -> workflow commands -> masks -> log. Also where the step's remarks, masks and outputs by
//! command come together. One direction; a slow log slows the pipe.

use caisson_model::id::StepIndex;
use caisson_model::lease::StepChange;
use caisson_model::outcome::{Annotation, AnnotationLevel};
use caisson_proto::api::AgentApi;
use tokio::sync::watch;

use crate::commands::{Command, Commands, Item};
use crate::logs::{LogError, StepLog};
use crate::mask::Masker;
use crate::reports::Remarks;
use crate::retry::forgotten;
use crate::stop::Stop;

/// The most annotations of each level that a step keeps.
const MAX_ANNOTATIONS: usize = 50;
/// The most bytes of all outputs and states that commands set.
const MAX_OUTPUTS: usize = 1 << 20;
/// The most masks that a step may add, and the longest one in bytes: each is searched for in all further output.
const MAX_MASKS: usize = 1000;
const MAX_MASK: usize = 64 << 10;

/// The output of one step.
pub struct Output<A: AgentApi> {
    log: StepLog<A>,
    log_error: Option<LogError>,
    masker: Masker,
    commands: Commands,
    step: StepIndex,
    remarks: Remarks,
    orders: watch::Receiver<Stop>,
    debug: bool,
    echo: bool,
    said: Said,
    said_bytes: usize,
}

/// Names with their values, in the order in which they were set.
pub type Entries = Vec<(String, String)>;

/// What a step said by commands.
#[derive(Debug, Default)]
pub struct Said {
    /// Values to mask for the rest of the job.
    pub masks: Vec<Vec<u8>>,
    /// Outputs, in order, that were not taken yet.
    pub outputs: Vec<(String, String)>,
    /// States, likewise.
    pub states: Vec<(String, String)>,
    /// Remarks, masked, at most 50 of each level.
    pub annotations: Vec<Annotation>,
    /// Why the log is not whole at the controller, when it is not.
    pub log_error: Option<LogError>,
}

impl<A: AgentApi> Output<A> {
    /// Output into `log`. `debug` tells whether `::debug::` is shown.
    pub fn new(log: StepLog<A>, step: StepIndex, remarks: Remarks, orders: watch::Receiver<Stop>, debug: bool) -> Output<A> {
        let masker = Masker::default();
        Output {
            log,
            log_error: None,
            masker,
            commands: Commands::new(),
            step,
            remarks,
            orders,
            debug,
            echo: false,
            said: Said::default(),
            said_bytes: 0,
        }
    }

    /// Takes bytes of a program's output.
    pub async fn feed(&mut self, bytes: &[u8]) {
        let mut items = Vec::new();
        self.commands.feed(bytes, &mut items);
        self.take_items(items).await;
    }

    /// A program's output is over: the next one begins at a new line, and without a stop token.
    pub async fn end_stream(&mut self) {
        let mut items = Vec::new();
        std::mem::take(&mut self.commands).finish(&mut items);
        self.take_items(items).await;
        let mut rest = Vec::new();
        self.masker.finish(&mut rest);
        self.write(&rest).await;
    }

    /// Writes a line of caisson's own.
    pub async fn say(&mut self, line: &str) {
        let mut masked = self.masker.mask(line.as_bytes());
        masked.push(b'\n');
        self.write(&masked).await;
    }

    /// Writes lines of caisson's own, all at once.
    pub async fn say_all(&mut self, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut masked = Vec::new();
        for line in lines {
            masked.extend(self.masker.mask(line.as_ref().as_bytes()));
            masked.push(b'\n');
        }
        self.write(&masked).await;
    }

    /// Makes a remark of caisson's own, which is also a line of the log.
    pub async fn remark(&mut self, level: AnnotationLevel, message: &str) {
        let annotation = Annotation { level, message: message.to_owned(), title: None, file: None, line: None, column: None };
        self.annotate(annotation).await;
    }

    /// Masks a value from now on.
    pub async fn mask(&mut self, value: &[u8], name: &str) {
        if let Err(error) = self.masker.add(value) {
            self.remark(AnnotationLevel::Warning, &format!("{name}: {error}")).await;
        }
    }

    /// A text with every mask applied.
    pub fn masked(&mut self, text: &str) -> String {
        String::from_utf8_lossy(&self.masker.mask(text.as_bytes())).into_owned()
    }

    /// What was said by commands.
    pub fn said(&self) -> &Said {
        &self.said
    }

    /// The outputs and states that commands set since the last call.
    pub fn take(&mut self) -> (Entries, Entries) {
        (std::mem::take(&mut self.said.outputs), std::mem::take(&mut self.said.states))
    }

    /// Ends the step's log. It is delivered and sealed while the job goes on, and before the controller hears of anything that
    /// is reported after this.
    pub async fn seal(self) -> Said {
        let Output { log, log_error, remarks, mut orders, mut said, .. } = self;
        said.log_error = log_error;
        if said.log_error.is_some() {
            return said;
        }
        let closed = tokio::select! {
            closed = log.close() => closed,
            () = forgotten(&mut orders) => return said,
        };
        match closed {
            Err(error) => said.log_error = Some(error),
            Ok(closed) => {
                remarks
                    .first(async move {
                        tokio::select! {
                            delivered = closed.deliver() => if let Err(error) = delivered {
                                tracing::error!(error = &error as &dyn std::error::Error, "log was not sealed");
                            },
                            () = forgotten(&mut orders) => {}
                        }
                    })
                    .await
            }
        }
        said
    }

    async fn write(&mut self, bytes: &[u8]) {
        // After an error the log ends there; the step goes on, and its result says so.
        if bytes.is_empty() || self.log_error.is_some() {
            return;
        }
        tokio::select! {
            written = self.log.write(bytes) => self.log_error = written.err(),
            () = forgotten(&mut self.orders) => {}
        }
    }

    async fn take_items(&mut self, items: Vec<Item>) {
        let mut out = Vec::new();
        for item in items {
            match item {
                Item::Text(bytes) => self.masker.push(&bytes, &mut out),
                Item::Command(command, line) => {
                    if self.echo && !matches!(command, Command::AddMask(_) | Command::Echo(_)) {
                        self.masker.push(&line, &mut out);
                        self.masker.push(b"\n", &mut out);
                    }
                    self.obey(command, &mut out);
                }
            }
        }
        if !out.is_empty() {
            self.write(&out).await;
        }
    }

    fn obey(&mut self, command: Command, out: &mut Vec<u8>) {
        match command {
            Command::Group(title) => self.show(&format!("##[group]{title}\n"), out),
            Command::EndGroup => self.show("##[endgroup]\n", out),
            Command::Debug(message) => {
                if self.debug {
                    self.show(&format!("##[debug]{message}\n"), out);
                }
            }
            Command::Annotate(annotation) => self.keep(annotation, out),
            Command::AddMask(value) => {
                if self.said.masks.len() >= MAX_MASKS || value.len() > MAX_MASK {
                    let message = format!("a mask was refused: a step may add {MAX_MASKS} of at most {MAX_MASK} bytes");
                    return self.warn(message, out);
                }
                match self.masker.add(value.as_bytes()) {
                    Ok(()) => self.said.masks.push(value.into_bytes()),
                    Err(error) => self.warn(error.to_string(), out),
                }
                self.show("::add-mask::***\n", out);
            }
            Command::SetOutput { name, value } => {
                self.said_bytes += name.len() + value.len();
                if self.said_bytes > MAX_OUTPUTS {
                    return self
                        .warn(format!("the output '{name}' was refused: outputs of a step are limited to {MAX_OUTPUTS} bytes"), out);
                }
                self.said.outputs.push((name, value));
            }
            Command::SaveState { name, value } => {
                self.said_bytes += name.len() + value.len();
                if self.said_bytes > MAX_OUTPUTS {
                    return self.warn(format!("the state '{name}' was refused: states of a step are limited to {MAX_OUTPUTS} bytes"), out);
                }
                self.said.states.push((name, value));
            }
            Command::Stop | Command::Resume => {}
            Command::Echo(on) => self.echo = on,
            Command::Refused { name, reason } => {
                let message = format!("the command ::{name}:: was refused: {reason}");
                self.keep(Annotation { level: AnnotationLevel::Error, message, title: None, file: None, line: None, column: None }, out);
            }
        }
    }

    fn warn(&mut self, message: String, out: &mut Vec<u8>) {
        self.keep(Annotation { level: AnnotationLevel::Warning, message, title: None, file: None, line: None, column: None }, out);
    }

    fn show(&mut self, text: &str, out: &mut Vec<u8>) {
        self.masker.push(text.as_bytes(), out);
    }

    fn keep(&mut self, annotation: Annotation, out: &mut Vec<u8>) {
        let word = match annotation.level {
            AnnotationLevel::Error => "error",
            AnnotationLevel::Warning => "warning",
            AnnotationLevel::Notice => "notice",
        };
        self.show(&format!("##[{word}]{}\n", annotation.message), out);
        self.record(annotation);
    }

    async fn annotate(&mut self, annotation: Annotation) {
        let mut out = Vec::new();
        self.keep(annotation, &mut out);
        self.masker.finish(&mut out);
        self.write(&out).await;
    }

    fn record(&mut self, mut annotation: Annotation) {
        let level = annotation.level;
        if self.said.annotations.iter().filter(|known| known.level == level).count() >= MAX_ANNOTATIONS {
            return;
        }
        annotation.message = self.masked(&annotation.message);
        annotation.title = annotation.title.map(|title| self.masked(&title));
        annotation.file = annotation.file.map(|file| self.masked(&file));
        self.remarks.tell(StepChange::Annotated { step: self.step, annotation: annotation.clone() });
        self.said.annotations.push(annotation);
    }
}
