//! What runs keep, and actions that are more than a name.

use caisson_model::artifact::{Artifact, Clash, Kept};
use caisson_model::cache::{CacheEntry, Saved};
use caisson_model::step::{ActionInput, ActionPlace, Composite, Hook, NodeAction};

use super::{Cross, Malformed, enumeration, field, message, required};
use crate::wire;

enumeration!(Clash => Clash { Refuse, Replace });
enumeration!(Kept => Kept { Kept, Clashes });
enumeration!(Saved => Saved { Saved, AlreadyThere });

message!(Artifact => Artifact { name, digest, bytes, files, at } whole { job });
message!(CacheEntry => CacheEntry { key, version, digest, bytes, at });
message!(Composite => CompositeAction { uses, with, inputs, outputs, steps } whole { place });
message!(NodeAction => NodeAction { uses, with, inputs, main, pre, post } whole { place });

impl Cross for Hook {
    type Wire = wire::node_action::Hook;

    fn out(self) -> Self::Wire {
        wire::node_action::Hook { program: self.program, condition: self.condition.out() }
    }

    fn back(wire: Self::Wire) -> Result<Hook, Malformed> {
        Ok(Hook { program: wire.program, condition: field(wire.condition, "condition")? })
    }
}

impl Cross for ActionInput {
    type Wire = wire::Entry;

    fn out(self) -> wire::Entry {
        wire::Entry { key: self.name, value: self.default.out() }
    }

    fn back(wire: wire::Entry) -> Result<ActionInput, Malformed> {
        Ok(ActionInput { default: field(wire.value, &wire.key)?, name: wire.key })
    }
}

impl Cross for ActionPlace {
    type Wire = wire::ActionPlace;

    fn out(self) -> wire::ActionPlace {
        use wire::action_place::{Mirror, Place};
        let place = match self {
            ActionPlace::Workspace(path) => Place::Workspace(path),
            ActionPlace::Mirror { tree, name, path } => Place::Mirror(Mirror { tree: tree.out(), name, path }),
        };
        wire::ActionPlace { place: Some(place) }
    }

    fn back(wire: wire::ActionPlace) -> Result<ActionPlace, Malformed> {
        use wire::action_place::Place;
        Ok(match wire.place.ok_or(Malformed::new("is required"))? {
            Place::Workspace(path) => ActionPlace::Workspace(path),
            Place::Mirror(mirror) => ActionPlace::Mirror { tree: field(mirror.tree, "tree")?, name: mirror.name, path: mirror.path },
        })
    }
}

/// An answer's message that may be absent.
pub(crate) fn optional<M: Cross>(wire: Option<M::Wire>, name: &str) -> Result<Option<M>, Malformed> {
    wire.map(|wire| required(Some(wire), name)).transpose()
}
