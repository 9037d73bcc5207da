//! What a step keeps for others and finds of theirs: blobs that programs print, trees that programs write, layers over the job's
//! directories.

use caisson_model::id::Digest;
use caisson_model::outcome::Fault;
use caisson_proto::api::AgentApi;

use crate::kept::{Blob, Layer, TREE};
use crate::program::{Halt, Input, Program, Sink};
use crate::step::course::Course;
use crate::step::growing::{Growing, refused};
use crate::step::handover;
use crate::trees::{Seedling, Tree};

/// The most layers of a job: each is a mount in every later step.
const MOST_LAYERS: usize = 32;

fn disk(act: &str, error: &dyn std::fmt::Display) -> Halt {
    Halt::faulted(format!("{act}: {error}"), Fault::Environment)
}

impl<A: AgentApi> Course<'_, A> {
    /// Runs a program and hands what it prints to the controller as a blob; `None` when its code is not 0.
    ///
    /// # Errors
    /// The [`Halt`] that ends the step, also when it prints more than `most` bytes.
    pub(super) async fn collect_blob(&mut self, mut program: Program, most: u64) -> Result<Option<Blob>, Halt> {
        program.sink = Sink::Collect(most);
        self.growing =
            Some(Growing::new(&self.attempt.workspace.spool()).map_err(|error| disk("a file for a blob could not be made", &error))?);
        let exit = self.execute(program).await;
        let grown = self.growing.take();
        let (exit, Some(grown)) = (exit?, grown) else { return Ok(None) };
        if exit.code != 0 {
            return Ok(None);
        }
        self.put(grown).await.map(Some)
    }

    /// Hands a file to the controller.
    async fn put(&mut self, grown: Growing) -> Result<Blob, Halt> {
        let blob = grown.blob();
        let handed = handover::hand_over(&self.attempt.api, &self.attempt.orders, blob, grown.into_file()).await;
        handed.map(|()| blob).map_err(|error| refused("a blob could not be handed over", &error))
    }

    /// Begins a tree of this job's ids.
    pub(super) async fn seedling(&mut self) -> Result<Seedling, Halt> {
        let (trees, ids) = (self.attempt.trees.clone(), self.attempt.workspace.ids());
        let begun = tokio::task::spawn_blocking(move || trees.begin(ids)).await;
        begun.map_err(|error| disk("a tree could not be begun", &error))?.map_err(|error| disk("a tree could not be begun", &Chain(&error)))
    }

    /// The tree of a tar blob: the one that is here, or unpacked now in a sandbox without any power.
    ///
    /// # Errors
    /// The [`Halt`] that ends the step.
    pub(super) async fn tree_of(&mut self, digest: Digest, what: &str) -> Result<Tree, Halt> {
        if let Some(tree) = self.attempt.trees.find(digest) {
            return Ok(tree);
        }
        let seedling = self.seedling().await?;
        let mut program = Program::new("tar", &["-x", "-f", "-", "-C", TREE, "--no-same-owner"], "/");
        program.mounts = vec![seedling.mount(TREE)];
        program.stdin = Input::Blob(digest, what.to_owned());
        match self.execute(program).await?.code {
            0 => self.name_tree(seedling, Blob { digest, bytes: 0 }).await,
            code => Err(Halt::invalid(format!("{what} could not be unpacked (exit code {code}); the output of tar is above"))),
        }
    }

    /// Gives a tree its name.
    pub(super) async fn name_tree(&mut self, seedling: Seedling, blob: Blob) -> Result<Tree, Halt> {
        let finished = tokio::task::spawn_blocking(move || seedling.finish(blob.digest, blob.bytes)).await;
        finished
            .map_err(|error| disk("a tree could not be finished", &error))?
            .map_err(|error| disk("a tree could not be finished", &Chain(&error)))
    }

    /// Lets a directory of the job show one of a tree, for the rest of the job. The directory must be there and empty.
    ///
    /// # Errors
    /// The [`Halt`] that ends the step.
    pub(super) async fn add_layer(&mut self, tree: &Tree, below: &str, target: &str) -> Result<(), Halt> {
        let number = self.attempt.layers.len();
        let upper = self.attempt.workspace.layer(number).map_err(|error| disk("a layer could not be made", &error))?;
        let (launcher, ids, at) = (self.attempt.launcher.clone(), self.attempt.workspace.ids(), upper.clone());
        let range = match ids {
            caisson_sandbox::spec::Ids::Range(range) => Some(range),
            caisson_sandbox::spec::Ids::Default => None,
        };
        let made = tokio::task::spawn_blocking(move || launcher.create_area(&at, &[], range)).await;
        made.map_err(|error| disk("a layer could not be made", &error))?
            .map_err(|error| disk("a layer could not be made", &Chain(&error)))?;
        self.attempt.layers.push(Layer { target: target.to_owned(), below: below.to_owned(), tree: tree.clone(), upper });
        Ok(())
    }

    /// Whether the job can have another layer over `target`: one below another would hide it.
    pub(super) fn has_room_for_layer(&self, target: &str) -> bool {
        let inside = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        self.attempt.layers.len() < MOST_LAYERS
            && !inside(&self.attempt.contexts.workspace, target)
            && self.attempt.layers.iter().all(|layer| !inside(&layer.target, target) && !inside(target, &layer.target))
    }
}

/// An error with all its reasons.
struct Chain<'e>(&'e dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |error| error.source()).try_for_each(|error| write!(f, ": {error}"))
    }
}
