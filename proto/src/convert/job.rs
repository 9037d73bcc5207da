//! What an agent receives: jobs, steps and grants.

use std::sync::Arc;

use caisson_model::job::{JobSpec, Need, RunContexts, Strategy};
use caisson_model::policy::{AddressRange, Destination, Egress, Grant, Identity, Limits, Preset};
use caisson_model::step::{Action, StepSpec};
use indexmap::IndexMap;

use super::{Cross, Malformed, enumeration, field, message, required, unique};
use crate::wire;

enumeration!(Preset => Preset { PythonPackages, NodePackages, DebianPackages });
enumeration!(Identity => Identity { User, Root });

message!(Egress => Egress { allow, presets, reason, ranges, before, bytes, connections, learn, fail_on_new, stored });
message!(Grant => Grant { secrets, system_calls, identity } whole { egress, limits });
message!(Strategy => Strategy { fail_fast, job_index, job_total, max_parallel });

impl Cross for Destination {
    type Wire = String;

    fn out(self) -> String {
        self.to_string()
    }

    fn back(wire: String) -> Result<Destination, Malformed> {
        wire.parse().map_err(|_| Malformed::new("is HOST, HOST:PORT or *.HOST:PORT"))
    }
}

impl Cross for AddressRange {
    type Wire = String;

    fn out(self) -> String {
        self.to_string()
    }

    fn back(wire: String) -> Result<AddressRange, Malformed> {
        wire.parse().map_err(|_| Malformed::new("is ADDRESS or ADDRESS/BITS"))
    }
}

impl Cross for Limits {
    type Wire = wire::Limits;

    fn out(self) -> wire::Limits {
        let Limits { memory_bytes, cpu_milli, cpu_weight, pids, disk_bytes, inodes, open_files, wall, log_bytes } = self;
        wire::Limits { memory_bytes, cpu_milli, pids, wall_ns: wall.out(), log_bytes, cpu_weight, disk_bytes, inodes, open_files }
    }

    fn back(wire: wire::Limits) -> Result<Limits, Malformed> {
        let wire::Limits { memory_bytes, cpu_milli, pids, wall_ns, log_bytes, cpu_weight, disk_bytes, inodes, open_files } = wire;
        let wall = field(wall_ns, "wall_ns")?;
        Ok(Limits { memory_bytes, cpu_milli, cpu_weight, pids, disk_bytes, inodes, open_files, wall, log_bytes })
    }
}

impl Cross for StepSpec {
    type Wire = wire::StepSpec;

    fn out(self) -> wire::StepSpec {
        let action = match self.action {
            Action::Run { script, shell, working_directory } => wire::step_spec::Action::Run(wire::RunAction {
                script: script.out(),
                shell: shell.out(),
                working_directory: working_directory.out(),
            }),
            Action::Uses { action, version, with } => wire::step_spec::Action::Uses(wire::UsesAction { action, version, with: with.out() }),
            Action::NoOp { action, version, reason } => wire::step_spec::Action::NoOp(wire::NoOpAction { action, version, reason }),
            Action::Composite(composite) => wire::step_spec::Action::Composite(composite.out()),
            Action::Node(node) => wire::step_spec::Action::Node(node.out()),
        };
        wire::StepSpec {
            index: self.index.out(),
            id: self.id,
            name: self.name.out(),
            condition: self.condition.out(),
            action: Some(action),
            env: self.env.out(),
            continue_on_error: self.continue_on_error.out(),
            timeout_minutes: self.timeout_minutes.out(),
            location: Some(self.location.out()),
            grant: Some(self.grant.out()),
        }
    }

    fn back(wire: wire::StepSpec) -> Result<StepSpec, Malformed> {
        let action = match wire.action.ok_or(Malformed::new("is required").within("action"))? {
            wire::step_spec::Action::Run(run) => Action::Run {
                script: field(run.script, "run.script")?,
                shell: field(run.shell, "run.shell")?,
                working_directory: field(run.working_directory, "run.working_directory")?,
            },
            wire::step_spec::Action::Uses(uses) => {
                Action::Uses { action: uses.action, version: uses.version, with: field(uses.with, "uses.with")? }
            }
            wire::step_spec::Action::NoOp(no_op) => Action::NoOp { action: no_op.action, version: no_op.version, reason: no_op.reason },
            wire::step_spec::Action::Composite(composite) => Action::Composite(field(composite, "composite")?),
            wire::step_spec::Action::Node(node) => Action::Node(field(node, "node")?),
        };
        Ok(StepSpec {
            index: field(wire.index, "index")?,
            id: wire.id,
            name: field(wire.name, "name")?,
            condition: field(wire.condition, "condition")?,
            action,
            env: field(wire.env, "env")?,
            continue_on_error: field(wire.continue_on_error, "continue_on_error")?,
            timeout_minutes: field(wire.timeout_minutes, "timeout_minutes")?,
            location: required(wire.location, "location")?,
            grant: required(wire.grant, "grant")?,
        })
    }
}

impl Cross for IndexMap<String, Need> {
    type Wire = Vec<wire::Need>;

    fn out(self) -> Self::Wire {
        self.into_iter().map(|(key, need)| wire::Need { key, outcome: need.outcome.out(), outputs: need.outputs.out() }).collect()
    }

    fn back(wire: Self::Wire) -> Result<Self, Malformed> {
        unique(wire.into_iter().map(|need| {
            let read = || Ok(Need { outcome: field(need.outcome, "outcome")?, outputs: field(need.outputs, "outputs")? });
            Ok((need.key.clone(), read().map_err(|e: Malformed| e.within(&need.key))?))
        }))
    }
}

impl Cross for RunContexts {
    type Wire = wire::RunContexts;

    fn out(self) -> wire::RunContexts {
        wire::RunContexts {
            github_json: self.github.out(),
            inputs_json: self.inputs.out(),
            vars_json: self.vars.out(),
            env: self.env.out(),
        }
    }

    fn back(wire: wire::RunContexts) -> Result<RunContexts, Malformed> {
        Ok(RunContexts {
            github: field(wire.github_json, "github_json")?,
            inputs: field(wire.inputs_json, "inputs_json")?,
            vars: field(wire.vars_json, "vars_json")?,
            env: field(wire.env, "env")?,
        })
    }
}

impl Cross for JobSpec {
    type Wire = wire::JobSpec;

    fn out(self) -> wire::JobSpec {
        wire::JobSpec {
            id: Some(self.id.out()),
            key: self.key.out(),
            name: self.name,
            workflow: self.workflow,
            labels: self.labels,
            matrix_json: self.matrix.out(),
            strategy: Some(self.strategy.out()),
            needs: self.needs.out(),
            workflow_env: self.workflow_env.out(),
            env: self.env.out(),
            outputs: self.outputs.out(),
            steps: self.steps.to_vec().out(),
            timeout_ns: self.timeout.out(),
            continue_on_error: self.continue_on_error,
            contexts: Some(Arc::unwrap_or_clone(self.contexts).out()),
            source: self.source.out(),
        }
    }

    fn back(wire: wire::JobSpec) -> Result<JobSpec, Malformed> {
        Ok(JobSpec {
            id: required(wire.id, "id")?,
            key: field(wire.key, "key")?,
            name: wire.name,
            workflow: wire.workflow,
            labels: wire.labels,
            matrix: field(wire.matrix_json, "matrix_json")?,
            strategy: required(wire.strategy, "strategy")?,
            needs: field(wire.needs, "needs")?,
            workflow_env: field(wire.workflow_env, "workflow_env")?,
            env: field(wire.env, "env")?,
            outputs: field(wire.outputs, "outputs")?,
            steps: field::<Vec<StepSpec>>(wire.steps, "steps")?.into(),
            timeout: field(wire.timeout_ns, "timeout_ns")?,
            continue_on_error: wire.continue_on_error,
            contexts: Arc::new(required(wire.contexts, "contexts")?),
            source: field(wire.source, "source")?,
        })
    }
}
