//! The actions that caisson has built in, and what it makes of each of their inputs.

/// A built-in action.
pub(crate) struct BuiltIn {
    /// Owner and repository, in lower case.
    pub(crate) name: &'static str,
    pub(crate) inputs: &'static [Input],
}

pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) treatment: Treatment,
}

/// What becomes of an input that a workflow gives.
pub(crate) enum Treatment {
    /// The action does what it says.
    Honoured,
    /// It changes nothing here, and nothing is lost by that.
    NoEffect,
    /// It changes nothing here, and the user is told why.
    Warned(&'static str),
}

const fn honoured(name: &'static str) -> Input {
    Input { name, treatment: Treatment::Honoured }
}

const fn no_effect(name: &'static str) -> Input {
    Input { name, treatment: Treatment::NoEffect }
}

const fn warned(name: &'static str, reason: &'static str) -> Input {
    Input { name, treatment: Treatment::Warned(reason) }
}

const NO_KEYS: &str = "the working tree is used as it stands, and no key or token is ever handed to it";

static ACTIONS: &[BuiltIn] = &[
    BuiltIn {
        name: "actions/checkout",
        inputs: &[
            honoured("repository"),
            honoured("ref"),
            honoured("path"),
            warned("submodules", "the working tree is used as it stands, with the submodules that it has"),
            warned("lfs", "the working tree is used as it stands, with the large files that it has"),
            honoured("sparse-checkout"),
            honoured("sparse-checkout-cone-mode"),
            no_effect("filter"),
            no_effect("token"),
            no_effect("persist-credentials"),
            warned("ssh-key", NO_KEYS),
            no_effect("ssh-known-hosts"),
            no_effect("ssh-strict"),
            no_effect("ssh-user"),
            honoured("clean"),
            no_effect("fetch-depth"),
            no_effect("fetch-tags"),
            no_effect("show-progress"),
            no_effect("set-safe-directory"),
            honoured("github-server-url"),
            no_effect("allow-unsafe-pr-checkout"),
        ],
    },
    BuiltIn {
        name: "actions/setup-python",
        inputs: &[
            honoured("python-version"),
            honoured("python-version-file"),
            honoured("cache"),
            honoured("cache-dependency-path"),
            honoured("architecture"),
            no_effect("check-latest"),
            honoured("allow-prereleases"),
            honoured("update-environment"),
            no_effect("token"),
            honoured("freethreaded"),
            honoured("pip-version"),
            honoured("pip-install"),
        ],
    },
    BuiltIn {
        name: "actions/setup-node",
        inputs: &[
            honoured("node-version"),
            honoured("node-version-file"),
            honoured("architecture"),
            no_effect("check-latest"),
            honoured("registry-url"),
            honoured("scope"),
            no_effect("token"),
            honoured("cache"),
            no_effect("package-manager-cache"),
            honoured("cache-dependency-path"),
            warned("mirror", NOT_FETCHED),
            no_effect("mirror-token"),
            no_effect("always-auth"),
        ],
    },
    BuiltIn {
        name: "astral-sh/setup-uv",
        inputs: &[
            honoured("version"),
            honoured("version-file"),
            honoured("python-version"),
            honoured("activate-environment"),
            honoured("venv-path"),
            honoured("working-directory"),
            honoured("enable-cache"),
            honoured("cache-dependency-glob"),
            honoured("cache-suffix"),
            honoured("cache-local-path"),
            no_effect("prune-cache"),
            no_effect("restore-cache"),
            no_effect("save-cache"),
            no_effect("cache-python"),
            no_effect("ignore-nothing-to-cache"),
            no_effect("ignore-empty-workdir"),
            no_effect("checksum"),
            no_effect("github-token"),
            warned("server-url", NOT_FETCHED),
            warned("download-from-astral-mirror", NOT_FETCHED),
            warned("manifest-file", NOT_FETCHED),
            warned("tool-dir", "uv keeps tools in the job's home"),
            warned("tool-bin-dir", "uv keeps tools in the job's home"),
            warned("python-dir", "the interpreters are those of the machine"),
            no_effect("add-problem-matchers"),
            no_effect("resolution-strategy"),
            no_effect("quiet"),
        ],
    },
    BuiltIn { name: "actions/cache", inputs: CACHE },
    BuiltIn { name: "actions/cache/restore", inputs: CACHE },
    BuiltIn { name: "actions/cache/save", inputs: CACHE },
    BuiltIn {
        name: "actions/upload-artifact",
        inputs: &[
            honoured("name"),
            honoured("path"),
            honoured("if-no-files-found"),
            no_effect("retention-days"),
            no_effect("compression-level"),
            honoured("overwrite"),
            honoured("include-hidden-files"),
            no_effect("archive"),
        ],
    },
    BuiltIn {
        name: "actions/download-artifact",
        inputs: &[
            honoured("name"),
            honoured("artifact-ids"),
            honoured("path"),
            honoured("pattern"),
            honoured("merge-multiple"),
            no_effect("github-token"),
            honoured("repository"),
            honoured("run-id"),
            no_effect("digest-mismatch"),
            no_effect("skip-decompress"),
        ],
    },
];

const NOT_FETCHED: &str = "nothing is downloaded from there: what the machine or the package index has is used";

const CACHE: &[Input] = &[
    honoured("path"),
    honoured("key"),
    honoured("restore-keys"),
    honoured("lookup-only"),
    honoured("fail-on-cache-miss"),
    honoured("save-always"),
    no_effect("upload-chunk-size"),
    no_effect("enableCrossOsArchive"),
];

/// The built-in action of this name, in any case.
pub(crate) fn find(name: &str) -> Option<&'static BuiltIn> {
    ACTIONS.iter().find(|action| action.name.eq_ignore_ascii_case(name))
}

/// The names of all built-in actions.
pub(crate) fn names() -> Vec<&'static str> {
    ACTIONS.iter().map(|action| action.name).collect()
}

impl BuiltIn {
    pub(crate) fn input(&self, name: &str) -> Option<&'static Input> {
        self.inputs.iter().find(|input| input.name.eq_ignore_ascii_case(name))
    }
}
