//! The repositories whose forges start runs here, as the operator named them.

use glob::Pattern;

/// A kind of forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forge {
    /// GitHub, also GitHub Enterprise.
    Github,
    /// GitLab.
    Gitlab,
    /// Gitea.
    Gitea,
    /// Forgejo.
    Forgejo,
}

impl Forge {
    /// Its name, as it stands in the address of its webhook.
    pub fn name(self) -> &'static str {
        match self {
            Forge::Github => "github",
            Forge::Gitlab => "gitlab",
            Forge::Gitea => "gitea",
            Forge::Forgejo => "forgejo",
        }
    }
}

/// One repository.
#[derive(Clone)]
pub struct Repository {
    /// `OWNER/NAME`.
    pub name: String,
    /// Its forge.
    pub forge: Forge,
    /// Where the forge's API begins, without a slash at the end: `https://api.github.com`, `https://git.example.com/api/v1`.
    pub api: String,
    /// From where agents clone it.
    pub clone: String,
    /// What webhooks are signed with.
    pub secret: Vec<u8>,
    /// A token of the forge, for reading workflows and reporting statuses.
    pub token: Option<String>,
    /// A token that may read the repository and nothing else, for the step that clones it.
    pub clone_token: Option<String>,
    /// Protected branches.
    pub protected: Vec<Pattern>,
    /// The branch whose schedules count.
    pub default_branch: String,
    /// Whether results are reported back.
    pub statuses: bool,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("name", &self.name).field("forge", &self.forge).finish_non_exhaustive()
    }
}

impl Repository {
    /// Whether a branch is protected.
    pub fn protects(&self, branch: &str) -> bool {
        self.protected.iter().any(|pattern| pattern.matches(branch))
    }
}
