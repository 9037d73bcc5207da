//! Names that may be asked for: checked before anything is built from them.

/// The longest name of a project, and of a file.
const LONGEST: usize = 214;

/// The normalized form of a Python project's name (PEP 503): lower case, runs of `-`, `_` and `.` as one `-`. `None` when
/// it is no name.
pub(crate) fn python(text: &str) -> Option<String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() > LONGEST || !edge(text.chars().next()) || !edge(text.chars().last()) || !text.chars().all(inner) {
        return None;
    }
    let mut name = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '-' | '_' | '.' if name.ends_with('-') => {}
            '-' | '_' | '.' => name.push('-'),
            c => name.push(c.to_ascii_lowercase()),
        }
    }
    Some(name)
}

/// Whether an npm package can have this name: `name` or `@scope/name`.
pub(crate) fn is_npm(text: &str) -> bool {
    let part = |text: &str| {
        !text.is_empty()
            && !text.starts_with(['.', '_'])
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '!' | '\'' | '(' | ')' | '*'))
    };
    text.len() <= LONGEST
        && match text.strip_prefix('@') {
            Some(rest) => rest.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
            None => part(text),
        }
}

/// Whether this can be the number of an npm version, or a tag.
pub(crate) fn is_npm_version(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
}

/// Whether this can be the name of a file in an index: one path segment of ordinary characters.
pub(crate) fn is_file(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST + 64
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '!' | '~' | '%' | ':' | '@'))
}

/// The project of a Python file, normalized, and its version as written: by the shape of wheels (PEP 427) and sdists (PEP 625).
pub(crate) fn of_python_file(file: &str) -> Option<(String, &str)> {
    if let Some(stem) = file.strip_suffix(".whl") {
        let mut parts = stem.split('-');
        let (name, version) = (parts.next()?, parts.next()?);
        return (parts.count() >= 3).then(|| Some((python(name)?, version))).flatten();
    }
    let stem = [".tar.gz", ".zip", ".tar.bz2", ".tgz"].iter().find_map(|suffix| file.strip_suffix(suffix))?;
    // A name may hold a dash before a digit in old sdists; the version is what follows the last dash.
    let (name, version) = stem.rsplit_once('-')?;
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    Some((python(name)?, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_names_are_normalized_or_refused() {
        for (text, expected) in [("Django", Some("django")), ("zope.interface", Some("zope-interface")), ("a__-.b", Some("a-b"))] {
            assert_eq!(python(text).as_deref(), expected, "{text}");
        }
        for text in ["", "-a", "a-", "a/b", "..", "a b", "é", "a?x", &"x".repeat(300)] {
            assert_eq!(python(text), None, "{text}");
        }
    }

    #[test]
    fn npm_names_have_at_most_a_scope() {
        for text in ["left-pad", "@babel/core", "JSONStream", "lodash.merge"] {
            assert!(is_npm(text), "{text}");
        }
        for text in ["", ".x", "_x", "@a", "@a/", "@/b", "a/b", "@a/b/c", "a?b", "a%2fb", "-/npm/v1/x"] {
            assert!(!is_npm(text), "{text}");
        }
    }

    #[test]
    fn files_tell_their_project_and_version() {
        for (file, expected) in [
            ("Django-5.2-py3-none-any.whl", Some(("django", "5.2"))),
            ("zope.interface-7.2-cp311-cp311-manylinux1_x86_64.whl", Some(("zope-interface", "7.2"))),
            ("psycopg2-2.9.10.tar.gz", Some(("psycopg2", "2.9.10"))),
            ("python-dateutil-2.9.0.post0.tar.gz", Some(("python-dateutil", "2.9.0.post0"))),
            ("README.txt", None),
            ("x-y.whl", None),
        ] {
            let found = of_python_file(file);
            assert_eq!(found.as_ref().map(|(name, version)| (name.as_str(), *version)), expected, "{file}");
        }
        assert!(is_file("a-1.0+local-py3-none-any.whl") && !is_file("../x") && !is_file("a/b") && !is_file(".x"));
    }
}
