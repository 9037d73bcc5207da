//! What a host must have for an attack to be possible at all.

/// A condition on the host outside of any sandbox.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// This file exists.
    File(&'static str),
    /// One of these files exists.
    OneOf(&'static [&'static str]),
    /// This file of the kernel's settings holds one of these values; a kernel that does not have the setting is fine.
    Setting(&'static str, &'static [&'static str]),
    /// The architecture is x86_64.
    X86,
    /// A limit is in force: memory.
    Memory,
    /// A limit is in force: processes.
    Pids,
    /// A limit is in force: processor time.
    Cpu,
}

impl Need {
    /// Why the host does not have it; `None` when it has. Limits are looked at by whoever knows what is enforced.
    pub fn lacking(self) -> Option<String> {
        let exists = |path: &str| std::path::Path::new(path).exists();
        match self {
            Self::File(path) if !exists(path) => Some(format!("this host has no {path}")),
            Self::OneOf(paths) if !paths.iter().any(|path| exists(path)) => Some(format!("this host has none of {}", paths.join(", "))),
            Self::Setting(path, values) => {
                let text = std::fs::read_to_string(path).ok()?;
                let value = text.trim();
                (!values.contains(&value)).then(|| format!("this host closes it to everybody: {path} is {value}"))
            }
            Self::X86 if !cfg!(target_arch = "x86_64") => Some("only x86_64 has this".to_owned()),
            _ => None,
        }
    }
}
