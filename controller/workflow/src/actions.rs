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
    /// The value would change what the steps see, so it is refused unless it is one of `except`.
    Refused { except: &'static [&'static str], reason: &'static str, help: &'static str },
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

const fn refused(name: &'static str, except: &'static [&'static str], reason: &'static str, help: &'static str) -> Input {
    Input { name, treatment: Treatment::Refused { except, reason, help } }
}

const NO_KEYS: &str = "the working tree is used as it stands, and no key or token is ever handed to it";

static ACTIONS: &[BuiltIn] = &[
    BuiltIn {
        name: "actions/checkout",
        inputs: &[
            refused(
                "repository",
                &["${{ github.repository }}"],
                "another repository cannot be checked out",
                "remove the input, or vendor what the step needs into the checkout",
            ),
            refused(
                "ref",
                &["", "${{ github.ref }}", "${{ github.sha }}", "${{ github.head_ref }}", "${{ github.ref_name }}"],
                "another revision cannot be checked out: the working tree is used as it stands",
                "remove the input and run caisson in a checkout of that revision",
            ),
            refused(
                "path",
                &["", ".", "./"],
                "the working tree cannot be placed below the workspace",
                "remove the input, and the directory's name from later steps",
            ),
            warned("submodules", "the working tree is used as it stands, with the submodules that it has"),
            warned("lfs", "the working tree is used as it stands, with the large files that it has"),
            warned("sparse-checkout", "the whole working tree is there"),
            no_effect("sparse-checkout-cone-mode"),
            no_effect("filter"),
            no_effect("token"),
            no_effect("persist-credentials"),
            warned("ssh-key", NO_KEYS),
            no_effect("ssh-known-hosts"),
            no_effect("ssh-strict"),
            no_effect("ssh-user"),
            no_effect("clean"),
            no_effect("fetch-depth"),
            no_effect("fetch-tags"),
            no_effect("show-progress"),
            no_effect("set-safe-directory"),
            no_effect("github-server-url"),
            no_effect("allow-unsafe-pr-checkout"),
        ],
    },
    BuiltIn {
        name: "actions/setup-python",
        inputs: &[
            honoured("python-version"),
            honoured("python-version-file"),
            warned("cache", "downloads are not cached between runs yet"),
            no_effect("cache-dependency-path"),
            honoured("architecture"),
            no_effect("check-latest"),
            honoured("allow-prereleases"),
            honoured("update-environment"),
            no_effect("token"),
            refused("freethreaded", &["", "false"], "free-threaded interpreters are not looked for", "remove the input"),
            warned("pip-version", "pip is the one of the interpreter that is found"),
            warned("pip-install", "nothing is installed by the set-up; add a `run: pip install` step"),
        ],
    },
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
