//! Templates, conditions, static analysis, and bounds on hostile input.
#![allow(clippy::unwrap_used, clippy::panic)]

use caisson_expr::{Condition, Contexts, ErrorKind, Expression, Function, Status, Template, Value, condition, evaluate};
use proptest::prelude::*;

fn contexts() -> Contexts {
    let json = serde_json::json!({
        "event_name": "push",
        "event": {"issue": {"title": "a 'quoted' title"}, "commits": [{"id": 1, "author": {"name": "x"}}, {"id": 2}]},
    });
    Contexts::new()
        .with("github", Value::from_json(&json))
        .with("matrix", Value::from_json(&serde_json::json!({"python": "3.12", "n": 3})))
        .with_status(Status::Success)
}

#[test]
fn templates_render_and_keep_the_type_of_a_single_expression() {
    for (text, value) in [
        ("", Value::from("")),
        ("plain", Value::from("plain")),
        ("${{ matrix.n }}", Value::Number(3.0)),
        ("n=${{ matrix.n }}!", Value::from("n=3!")),
        ("${{ '}}' }}", Value::from("}}")),
        ("${{ 'it''s' }}${{ github.nothing }}", Value::from("it's")),
        ("$${{ 1 }}", Value::from("$1")),
    ] {
        assert_eq!(Template::parse(text).unwrap().evaluate(&contexts()).unwrap(), value, "{text}");
    }
}

#[test]
fn template_errors_have_spans_of_the_template() {
    for (text, kind, start) in [
        ("ab ${{ 1 = }}", ErrorKind::Lexing, 9),
        ("ab ${{ nope() }}", ErrorKind::Parsing, 7),
        ("ab ${{ 1", ErrorKind::Parsing, 3),
        ("ab ${{ }}", ErrorKind::Parsing, 6),
    ] {
        let error = Template::parse(text).unwrap_err();
        assert_eq!((error.kind, error.span.start), (kind, start), "{text}: {error}");
    }
}

#[test]
fn conditions_imply_success() {
    for (text, success, failure, cancelled) in [
        ("", true, false, false),
        ("true", true, false, false),
        ("${{ false }}", false, false, false),
        ("always()", true, true, true),
        ("failure()", false, true, false),
        ("${{ !cancelled() }}", true, true, false),
        ("github.event_name == 'push'", true, false, false),
        ("  ${{ github.event_name == 'pull' }}  ", false, false, false),
        ("failure() || matrix.n > 2", true, true, true),
    ] {
        for (status, expected) in [(Status::Success, success), (Status::Failure, failure), (Status::Cancelled, cancelled)] {
            let got = condition(text, &contexts().with_status(status)).unwrap();
            assert_eq!(got, expected, "{text:?} in {status:?}");
        }
    }
    assert!(Condition::parse("${{ false }} && false").unwrap().is_text());
    assert!(!Condition::parse(" ${{ false }} ").unwrap().is_text());
}

#[test]
fn paths_calls_and_contexts_are_listed() {
    let text = "format('{0}', GitHub.event['issue'].title) == needs.*.result && a[b.c].d || success()";
    let expression = Expression::parse(text).unwrap();
    let paths: Vec<String> = expression.paths().iter().map(caisson_expr::Path::normal).collect();
    assert_eq!(paths, ["github.event.issue.title", "needs.*.result", "a.[].d", "b.c"]);
    assert_eq!(expression.contexts(), ["github", "needs", "a", "b"]);
    let calls: Vec<(Function, usize)> = expression.calls().iter().map(|call| (call.function, call.arguments)).collect();
    assert_eq!(calls, [(Function::Format, 2), (Function::Success, 0)]);
    let first = &expression.paths()[0];
    assert_eq!(&text[first.span.start..first.span.end], "GitHub.event['issue'].title");
}

#[test]
fn only_what_can_come_out_flows() {
    for (text, expected) in [
        ("a.b", &["a.b"][..]),
        ("a.b == 'x'", &[]),
        ("contains(a.b, c) && d", &["d"]),
        ("a && b || c", &["b", "c"]),
        ("format('{0}', toJSON(a.*.b))", &["a.*.b"]),
        ("case(a == b, c, d)", &["c", "d"]),
        ("fromJSON(a).b[c]", &["a"]),
        ("!a", &[]),
    ] {
        let flows: Vec<String> = Expression::parse(text).unwrap().flows().iter().map(caisson_expr::Path::normal).collect();
        assert_eq!(flows, expected, "{text}");
    }
}

#[test]
fn names_that_the_place_does_not_allow_are_refused_in_text_order() {
    let expression = Expression::parse("always() && secrets.A == github.b").unwrap();
    let error = expression.check(&["github"], &[Function::Always]).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Parsing, "unrecognized named-value: 'secrets'"));
    assert!(expression.check(&["github"], &[]).unwrap_err().message.contains("always"));
    expression.check(&["SECRETS", "github"], &[Function::Always]).unwrap();
}

#[test]
fn objects_keep_order_and_first_spelling() {
    let value = Value::from_json(&serde_json::json!({"b": 1, "A": 2, "a": 3}));
    assert_eq!(value.to_json().to_string(), r#"{"b":1,"A":2}"#);
}

#[test]
fn results_are_bounded() {
    // Doubles forty times: far beyond any memory unless bounded.
    let mut text = "'0123456789abcdef'".to_owned();
    for _ in 0..40 {
        text = format!("format('{{0}}{{0}}',{text})");
    }
    let expression = Expression::parse(&text).unwrap();
    assert_eq!(evaluate(&expression, &Contexts::new()).unwrap_err().kind, ErrorKind::Evaluation);
}

#[test]
fn long_flat_chains_need_no_deep_stack() {
    for operator in ["==", "<", "||", "&&"] {
        let text = vec!["1"; 5_000].join(operator);
        let expression = Expression::parse(&text).unwrap();
        evaluate(&expression, &Contexts::new()).unwrap();
    }
    assert!(Expression::parse(&"(".repeat(20_000)).is_err());
    assert!(Expression::parse(&"!".repeat(20_000)).is_err());
    assert!(Expression::parse(&"a[".repeat(10_000)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        let _ = Expression::parse(&text).map(|expression| evaluate(&expression, &contexts()));
        let _ = condition(&text, &contexts());
    }

    #[test]
    fn no_likely_text_makes_it_panic(words in prop::collection::vec(prop::sample::select(vec![
        "github", ".", "event", "[", "]", "*", "(", ")", ",", "'", "''", "{0}", "}", "{", "1", "-", "0x", "NaN", "!", "==",
        "<=", "&&", "||", "fromJSON", "toJSON", "format", "join", "contains", "case", "always", "success", "${{", "}}",
        " ", "'[1,{\"a\":2}]'", "true", "null", "é", "ı", "matrix.n", "github.event.commits.*.id",
    ]), 0..24)) {
        let text = words.concat();
        let _ = Expression::parse(&text).map(|expression| evaluate(&expression, &contexts()));
        let _ = condition(&text, &contexts());
        if let Ok(template) = Template::parse(&text) {
            let _ = template.render(&contexts());
        }
    }

    #[test]
    fn numbers_survive_json(number in proptest::num::f64::NORMAL) {
        let text = format!("fromJSON('{}')", serde_json::Value::from(number));
        let value = evaluate(&Expression::parse(&text).unwrap(), &Contexts::new()).unwrap();
        prop_assert_eq!(value, Value::Number(number));
    }
}
