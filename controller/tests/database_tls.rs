//! A database of another machine is reached over TLS, and only one that proves who it is.

#![allow(clippy::unwrap_used, clippy::panic)]

mod database;

use caisson_controller::records::{Records, There};
use caisson_controller::store::journal::StoreError;
use caisson_controller::store::postgres;
use caisson_controller::store::postgres::shelf::Table;

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn the_database_is_believed_as_far_as_the_address_says() {
    let names = |name: &str| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (own, other) = (names("127.0.0.1"), names("127.0.0.1"));
    let Some(url) = database::with_tls(&own.cert.pem(), &own.signing_key.serialize_pem()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (file("right.pem", own.cert.pem()), file("wrong.pem", other.cert.pem()));
    let open = |query: &str| postgres::claim(&format!("{url}{query}"), "here");
    // In the clear the server refuses, so what follows is over TLS.
    assert!(matches!(open("?sslmode=disable"), Err(StoreError::Server(..))));
    drop(open("?sslmode=require").unwrap().unwrap());
    drop(open(&format!("?sslmode=verify-full&sslrootcert={right}")).unwrap().unwrap());
    drop(open(&format!("?sslmode=verify-ca&sslrootcert={right}")).unwrap().unwrap());
    for query in [
        format!("?sslmode=verify-full&sslrootcert={wrong}"),
        format!("?sslmode=require&sslrootcert={wrong}"),
        "?sslmode=verify-full".to_owned(),
    ] {
        let error = open(&query).err().unwrap_or_else(|| panic!("{query} was believed"));
        assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    }
    let by_name = url.replace("127.0.0.1", "localhost");
    let full = postgres::claim(&format!("{by_name}?sslmode=verify-full&sslrootcert={right}"), "here");
    assert!(full.is_err(), "the certificate is for another name");
    drop(postgres::claim(&format!("{by_name}?sslmode=verify-ca&sslrootcert={right}"), "here").unwrap().unwrap());
}

#[test]
fn records_are_written_by_the_leader_alone() {
    let Some(url) = database::new() else { return };
    let (first, epoch) = postgres::claim(&url, "first").unwrap().unwrap();
    let (one, two) = (Table::new(&url), Table::new(&url));
    assert!(one.write("a/1.json", "1", There::Stays).is_err(), "nobody has made it lead");
    one.lead(epoch);
    assert!(one.write("a/1.json", "1", There::Stays).unwrap());
    assert!(!one.write("a/1.json", "2", There::Stays).unwrap());
    assert!(one.write("a/2.json", "2", There::GivesWay).unwrap() && one.write("ab/3.json", "3", There::GivesWay).unwrap());
    assert_eq!(two.below("a").unwrap(), [("a/1.json".to_owned(), "1".to_owned()), ("a/2.json".to_owned(), "2".to_owned())]);
    drop(first);
    let (_second, later) = loop {
        // The server needs a moment to see that the connection is gone.
        match postgres::claim(&url, "second").unwrap() {
            Some(claimed) => break claimed,
            None => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    two.lead(later);
    assert!(one.write("a/4.json", "4", There::Stays).is_err() && one.remove("a/1.json").is_err(), "its time is over");
    two.remove("a/1.json").unwrap();
    assert_eq!(one.read("a/1.json").unwrap(), None, "and it reads on");
}
