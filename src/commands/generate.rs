//! `caisson init`: writes the workflow that `caisson run` would use in a Django checkout without one.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use caisson_model::outcome::Fault;

use crate::cli;
use crate::commands::surroundings;
use crate::report::{self, Exit, Explained, Failure};
use crate::{generated, machine, project, selection};

/// Nothing is written.
#[derive(Debug, thiserror::Error)]
enum InitError {
    /// There is a workflow.
    #[error("{} is there already: it is left as it is", .0.display())]
    Exists(PathBuf),
    /// There is nothing to write about.
    #[error("{} has no Django project: there is no manage.py, and no requirement names Django", .0.display())]
    NoProject(PathBuf),
    /// The file cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] std::io::Error),
}

impl Explained for InitError {
    fn fault(&self) -> Fault {
        match self {
            InitError::Write(..) => Fault::Environment,
            _ => Fault::User,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            InitError::Exists(_) => Some("run it with `caisson run`, or move it away first".to_owned()),
            InitError::NoProject(_) => Some("name the checkout: caisson init DIR; or write a workflow by hand".to_owned()),
            InitError::Write(..) => None,
        }
    }
}

/// Writes the file, and shows it.
pub(crate) fn run(arguments: &cli::Init) -> Result<Exit, Failure> {
    let checkout = selection::checkout(&arguments.directory)?;
    let (environment, _) = surroundings();
    let path = checkout.join(generated::FILE);
    if path.symlink_metadata().is_ok() {
        return Err(InitError::Exists(path).into());
    }
    let project =
        project::discover(&checkout, &machine::minor_versions(&environment)).ok_or_else(|| InitError::NoProject(checkout.clone()))?;
    let text = generated::workflow(&project);
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => InitError::Exists(path.clone()),
        _ => InitError::Write(path.clone(), error),
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    report::note(&format!("wrote {}", path.display()));
    Ok(report::print(&text))
}
