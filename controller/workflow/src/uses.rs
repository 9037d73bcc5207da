//! The text of a `uses:`.

/// What a step's `uses:` points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Uses {
    /// `owner/name[/path]@version`
    Repository {
        /// Owner, name and path, as written.
        name: String,
        version: String,
    },
    /// `./path`, or `$/path` in the repository of the running workflow.
    Local,
    /// `docker://image`
    Docker,
}

impl Uses {
    pub(crate) fn parse(text: &str) -> Result<Uses, String> {
        if text.starts_with("docker://") {
            return Ok(Uses::Docker);
        }
        if ["./", ".\\", "$/"].iter().any(|prefix| text.starts_with(prefix)) {
            return Ok(Uses::Local);
        }
        let parts = text.split_once('@').filter(|(name, version)| {
            let segments: Vec<&str> = name.split(['/', '\\']).collect();
            segments.len() >= 2 && segments.iter().all(|segment| !segment.is_empty()) && !version.is_empty() && !version.contains('@')
        });
        match parts {
            Some((name, version)) => Ok(Uses::Repository { name: name.to_owned(), version: version.to_owned() }),
            None => Err(format!("expected format {{owner}}/{{repository}}[/path]@{{version}}, this is '{text}'")),
        }
    }
}
