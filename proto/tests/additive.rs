//! The contract only grows: whatever the version before said still has its name, number, type and shape.
//! `previous/` holds the contract of that version; it is replaced when a version is released.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

const FILES: [&str; 3] = ["caisson/v1/types.proto", "caisson/v1/agent.proto", "caisson/v1/client.proto"];

/// Every field, enumeration value and call, by its full name or number, with what must not change about it.
fn facts(root: &str) -> BTreeMap<String, String> {
    let set = protox::compile(FILES, [root]).unwrap();
    let mut facts = BTreeMap::new();
    for file in set.file {
        let package = file.package().to_owned();
        let mut enums: Vec<_> = file.enum_type.iter().map(|kind| (package.clone(), kind.clone())).collect();
        let mut open: Vec<_> = file.message_type.iter().map(|message| (package.clone(), message.clone())).collect();
        while let Some((outer, message)) = open.pop() {
            let name = format!("{outer}.{}", message.name());
            for field in &message.field {
                let choice = field.oneof_index.map(|index| message.oneof_decl[index as usize].name().to_owned());
                let fact = format!("{} {:?} {:?} {} {choice:?}", field.name(), field.label(), field.r#type(), field.type_name());
                facts.insert(format!("{name} field {}", field.number()), fact);
            }
            enums.extend(message.enum_type.iter().map(|kind| (name.clone(), kind.clone())));
            open.extend(message.nested_type.iter().map(|inner| (name.clone(), inner.clone())));
        }
        for (outer, kind) in enums {
            for value in &kind.value {
                facts.insert(format!("{outer}.{} value {}", kind.name(), value.number()), value.name().to_owned());
            }
        }
        for service in &file.service {
            for call in &service.method {
                let streams = (call.client_streaming(), call.server_streaming());
                let fact = format!("{} {} {streams:?}", call.input_type(), call.output_type());
                facts.insert(format!("{package}.{}.{}", service.name(), call.name()), fact);
            }
        }
    }
    facts
}

fn broken(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let differs = |(name, fact): (&String, &String)| match now.get(name) {
        Some(found) if found == fact => None,
        found => Some(format!("{name}: was {fact}, is {}", found.map_or("gone", String::as_str))),
    };
    before.iter().filter_map(differs).collect()
}

#[test]
fn nothing_of_the_version_before_has_changed() {
    let root = env!("CARGO_MANIFEST_DIR");
    let (before, now) = (facts(&format!("{root}/previous")), facts(root));
    assert!(before.len() > 200, "only {} facts were found", before.len());
    let broken = broken(&before, &now);
    assert!(broken.is_empty(), "an agent or client of the version before would not understand this:\n  {}", broken.join("\n  "));
}

/// The comparison sees what it is for.
#[test]
fn a_field_that_changes_is_found() {
    let before = facts(env!("CARGO_MANIFEST_DIR"));
    let mut now = before.clone();
    now.remove("caisson.v1.Hello field 3");
    now.insert("caisson.v1.JobId field 1".to_owned(), "run Optional String  None".to_owned());
    assert_eq!(broken(&before, &now).len(), 2);
}
