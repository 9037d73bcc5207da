//! What the public index tells of a project or a release beside the simple API, made from what the simple API says: for an earlier day,
//! of which only that is known, and for indexes that have nothing else.

use serde_json::{Value, json};

use crate::name;
use crate::python::project::{Project, ProjectFile};

/// The description of one release, or of the newest; `None` when there is none. What a release requires stands in its files' metadata,
/// where clients look when it is not told here.
pub(crate) fn of(project: &str, page: &Project, release: Option<&str>) -> Option<Vec<u8>> {
    let mut releases: Vec<(String, Vec<Value>)> = Vec::new();
    for file in &page.files {
        let Some((_, version)) = name::of_python_file(&file.name) else { continue };
        let told = described(file);
        match releases.iter_mut().find(|(known, _)| known == version) {
            Some((_, files)) => files.push(told),
            None => releases.push((version.to_owned(), vec![told])),
        }
    }
    // Pages list their files in the order of their versions, as a rule; a client that wants another says which.
    let at = match release {
        Some(release) => releases.iter().position(|(version, _)| version == release)?,
        None => releases.len().checked_sub(1)?,
    };
    let (version, files) = releases[at].clone();
    let yanked = files.iter().all(|file| file["yanked"] == true);
    let mut document = json!({
        "info": {
            "name": project,
            "version": version,
            "summary": "",
            "requires_dist": null,
            "requires_python": files.iter().find_map(|file| file["requires_python"].as_str()),
            "yanked": yanked,
            "yanked_reason": files.iter().find_map(|file| file["yanked_reason"].as_str()),
        },
        "urls": files,
        "last_serial": 0,
        "vulnerabilities": [],
    });
    if release.is_none() {
        document["releases"] = releases.into_iter().map(|(version, files)| (version, Value::from(files))).collect();
    }
    Some(document.to_string().into_bytes())
}

fn described(file: &ProjectFile) -> Value {
    let wheel = file.name.ends_with(".whl");
    json!({
        "filename": file.name,
        "url": file.url.as_str(),
        "digests": file.hashes,
        "packagetype": if wheel { "bdist_wheel" } else { "sdist" },
        "python_version": if wheel { "py3" } else { "source" },
        "requires_python": file.requires_python,
        "size": file.size,
        "upload_time_iso_8601": file.uploaded,
        "yanked": file.yanked.is_some(),
        "yanked_reason": file.yanked.as_deref().filter(|reason| !reason.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use url::Url;

    use super::*;
    use crate::python::project::Metadata;

    fn file(name: &str, yanked: Option<&str>) -> ProjectFile {
        ProjectFile {
            name: name.to_owned(),
            url: Url::parse(&format!("https://files.example/{name}")).unwrap(),
            hashes: [("sha256".to_owned(), "ab".to_owned())].into(),
            requires_python: Some(">=3.9".to_owned()),
            size: Some(7),
            uploaded: None,
            yanked: yanked.map(str::to_owned),
            metadata: Metadata::None,
        }
    }

    #[test]
    fn a_release_has_its_files_and_no_other() {
        let files =
            vec![file("demo-1.0.tar.gz", None), file("demo-1.0-py3-none-any.whl", None), file("demo-2.0-py3-none-any.whl", Some("broken"))];
        let page = Project { files, ..Project::default() };
        let told = |release: Option<&str>| of("demo", &page, release).map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap());
        let one = told(Some("1.0")).unwrap();
        let kinds: Vec<&str> = one["urls"].as_array().unwrap().iter().map(|url| url["packagetype"].as_str().unwrap()).collect();
        assert_eq!((kinds, &one["info"]["yanked"]), (vec!["sdist", "bdist_wheel"], &json!(false)));
        assert_eq!(one["urls"][1]["digests"]["sha256"], json!("ab"));
        let newest = told(None).unwrap();
        assert_eq!((&newest["info"]["version"], &newest["info"]["yanked_reason"]), (&json!("2.0"), &json!("broken")));
        assert_eq!(newest["releases"].as_object().unwrap().len(), 2);
        assert_eq!(told(Some("3.0")), None);
    }
}
