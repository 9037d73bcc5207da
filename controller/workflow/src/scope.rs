//! Which contexts and functions an expression may use at a place.

use caisson_expr::Function;

/// A set of contexts and functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope(u32);

impl Scope {
    pub(crate) const NONE: Scope = Scope(0);
    pub(crate) const GITHUB: Scope = Scope(1);
    pub(crate) const INPUTS: Scope = Scope(1 << 1);
    pub(crate) const VARS: Scope = Scope(1 << 2);
    pub(crate) const NEEDS: Scope = Scope(1 << 3);
    pub(crate) const STRATEGY: Scope = Scope(1 << 4);
    pub(crate) const MATRIX: Scope = Scope(1 << 5);
    pub(crate) const SECRETS: Scope = Scope(1 << 6);
    pub(crate) const STEPS: Scope = Scope(1 << 7);
    pub(crate) const JOB: Scope = Scope(1 << 8);
    pub(crate) const RUNNER: Scope = Scope(1 << 9);
    pub(crate) const ENV: Scope = Scope(1 << 10);
    pub(crate) const JOBS: Scope = Scope(1 << 11);
    /// `hashFiles`
    pub(crate) const HASH: Scope = Scope(1 << 12);
    /// `success`, `failure`, `always`, `cancelled`
    pub(crate) const STATUS: Scope = Scope(1 << 13);

    const NAMES: [(Scope, &'static str); 12] = [
        (Scope::GITHUB, "github"),
        (Scope::INPUTS, "inputs"),
        (Scope::VARS, "vars"),
        (Scope::NEEDS, "needs"),
        (Scope::STRATEGY, "strategy"),
        (Scope::MATRIX, "matrix"),
        (Scope::SECRETS, "secrets"),
        (Scope::STEPS, "steps"),
        (Scope::JOB, "job"),
        (Scope::RUNNER, "runner"),
        (Scope::ENV, "env"),
        (Scope::JOBS, "jobs"),
    ];

    /// Contexts known to the whole run.
    pub(crate) const RUN: Scope = Scope::GITHUB.and(Scope::INPUTS).and(Scope::VARS);
    /// Contexts known once the jobs that are needed have ended.
    pub(crate) const NEEDED: Scope = Scope::RUN.and(Scope::NEEDS);
    /// Contexts known to one cell of a matrix.
    pub(crate) const CELL: Scope = Scope::NEEDED.and(Scope::STRATEGY).and(Scope::MATRIX);
    /// Contexts of a running job, without secrets.
    pub(crate) const RUNNING: Scope = Scope::CELL.and(Scope::STEPS).and(Scope::JOB).and(Scope::RUNNER).and(Scope::ENV);
    /// Everything that a step may name outside of its `if:`.
    pub(crate) const STEP: Scope = Scope::RUNNING.and(Scope::SECRETS).and(Scope::HASH);

    /// What an action may name in the default of an input.
    pub(crate) const ACTION_DEFAULT: Scope =
        Scope::GITHUB.and(Scope::STRATEGY).and(Scope::MATRIX).and(Scope::JOB).and(Scope::RUNNER).and(Scope::HASH);
    /// What the steps of an action may name: no secret, nothing of the workflow around it.
    pub(crate) const ACTION: Scope = Scope::ACTION_DEFAULT.and(Scope::INPUTS).and(Scope::STEPS).and(Scope::ENV);

    pub(crate) const fn and(self, other: Scope) -> Scope {
        Scope(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Scope) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn contexts(self) -> Vec<&'static str> {
        Scope::NAMES.iter().filter(|(scope, _)| self.has(*scope)).map(|(_, name)| *name).collect()
    }

    pub(crate) fn functions(self) -> Vec<Function> {
        let allowed = |function: &Function| match function {
            Function::HashFiles => self.has(Scope::HASH),
            function if function.is_status() => self.has(Scope::STATUS),
            _ => true,
        };
        Function::ALL.into_iter().filter(allowed).collect()
    }

    /// Whether the language has a context of this name anywhere.
    pub(crate) fn is_context(name: &str) -> bool {
        Scope::NAMES.iter().any(|(_, known)| known.eq_ignore_ascii_case(name))
    }
}
