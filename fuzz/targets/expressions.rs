//! Expressions: read, rendered and evaluated over a context; never a panic, and the same twice.
#![no_main]

use caisson_expr::{Contexts, Expression, Object, Status, Template, Value};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let github: Object = [("ref", "refs/heads/main"), ("event", "{\"a\":[1,2,{\"b\":null}]}"), ("number", "42")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::string(value)))
        .collect();
    let contexts = Contexts::new().with("github", Value::from(github)).with_status(Status::Success);
    if let Ok(expression) = Expression::parse(text) {
        let once = caisson_expr::evaluate(&expression, &contexts).map(|value| value.to_text()).map_err(|error| error.to_string());
        let again = caisson_expr::evaluate(&expression, &contexts).map(|value| value.to_text()).map_err(|error| error.to_string());
        assert_eq!(once, again);
    }
    if let Ok(template) = Template::parse(text) {
        let _ = template.render(&contexts);
    }
});
