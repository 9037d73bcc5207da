//! What steps got of the package gateway, in one line each: `62 packages, 48 MiB, 60 from disk`.

use std::collections::{BTreeMap, BTreeSet};

use caisson_model::outcome::{Bytes, EgressEntry, PackageOrigin, Verdict};

/// What one step got.
#[derive(Debug, Default)]
struct Got<'e> {
    files: BTreeSet<&'e str>,
    fetched: BTreeSet<&'e str>,
    bytes: u64,
}

/// Sums by step.
#[derive(Debug, Default)]
pub(crate) struct Packages<'e> {
    steps: BTreeMap<String, Got<'e>>,
}

impl<'e> Packages<'e> {
    /// Takes an entry of a step's ledger, if it is a package that was served.
    pub(crate) fn take(&mut self, place: &str, entry: &'e EgressEntry) -> bool {
        let Some(package) = entry.package.as_ref().filter(|_| entry.verdict == Verdict::Allowed) else { return false };
        let got = self.steps.entry(place.to_owned()).or_default();
        got.files.insert(&package.file);
        if package.origin == PackageOrigin::Upstream {
            got.fetched.insert(&package.file);
        }
        got.bytes += entry.received;
        true
    }

    /// Whether nothing was taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Each step with its sum.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&str, String)> {
        self.steps.iter().map(|(place, got)| {
            let count = got.files.len();
            let plural = if count == 1 { "" } else { "s" };
            let stored = count - got.fetched.len();
            (place.as_str(), format!("{count} package{plural}, {}, {stored} from disk", Bytes(got.bytes)))
        })
    }
}

#[cfg(test)]
mod tests {
    use caisson_model::outcome::Package;
    use caisson_model::time::Timestamp;

    use super::*;

    #[test]
    fn a_step_has_one_line_and_a_file_in_parts_counts_once() {
        let entry = |file: &str, origin| EgressEntry {
            received: 1024,
            package: Some(Package { ecosystem: "python".into(), name: "x".into(), file: file.into(), digest: String::new(), origin }),
            ..EgressEntry::connection(Timestamp(0), "pypi.org", 443, Verdict::Allowed, String::new())
        };
        let entries = [entry("a.whl", PackageOrigin::Upstream), entry("b.whl", PackageOrigin::Disk), entry("b.whl", PackageOrigin::Disk)];
        let plain = EgressEntry::connection(Timestamp(0), "h", 1, Verdict::Allowed, String::new());
        let mut packages = Packages::default();
        assert!(entries.iter().all(|entry| packages.take("job/Install", entry)));
        assert!(!packages.take("job/Install", &plain));
        assert_eq!(packages.lines().collect::<Vec<_>>(), [("job/Install", "2 packages, 3 KiB, 1 from disk".to_owned())]);
    }
}
