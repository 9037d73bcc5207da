//! What a command of apt is.

use crate::policy::shell::Command;

/// Whether a command is `apt-get` (or `apt`) that updates or installs, with or without `sudo`.
pub(crate) fn is_apt(command: &Command) -> bool {
    let mut words = command.words.iter().map(|word| word.text.as_str()).peekable();
    let assignment = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_') && name != "PATH" && !name.starts_with("LD_")
        })
    };
    while words.next_if(|word| assignment(word)).is_some() {}
    if words.next_if(|word| *word == "sudo").is_some() {
        while words
            .next_if(|word| matches!(*word, "-E" | "-H" | "-n" | "-S" | "-EH" | "-HE" | "--preserve-env" | "--") || assignment(word))
            .is_some()
        {}
    }
    if !matches!(words.next(), Some("apt-get" | "apt")) {
        return false;
    }
    // Options that name a file or a command of the workflow's own could run anything as root.
    let rest: Vec<&str> = words.collect();
    let plain = rest.iter().all(|word| {
        !word.starts_with("-o")
            && !word.starts_with("-c")
            && !word.starts_with("--option")
            && !word.starts_with("--config")
            && !word.contains('/')
    });
    let verb = rest.iter().find(|word| !word.starts_with('-'));
    plain
        && verb.is_some_and(|verb| {
            matches!(*verb, "update" | "install" | "upgrade" | "clean" | "autoclean" | "autoremove" | "remove" | "purge")
        })
}
