#![allow(clippy::unwrap_used)]
use super::*;

const JSON: &str = "application/vnd.pypi.simple.v1+json";

fn at() -> Url {
    Url::parse("https://index.example/simple/demo/").unwrap()
}

fn demo() -> Project {
    let page = r#"{"meta":{"api-version":"1.1"},"name":"demo","versions":["1.0","2.0"],"files":[
        {"filename":"demo-1.0-py3-none-any.whl","url":"../../files/demo-1.0-py3-none-any.whl","hashes":{"sha256":"aa"},"size":10,
         "upload-time":"2024-01-01T10:00:00.000000Z","core-metadata":{"sha256":"bb"},"yanked":false,"requires-python":">=3.9"},
        {"filename":"demo-2.0.tar.gz","url":"https://files.example/d/demo-2.0.tar.gz#frag","hashes":{},"size":20,
         "upload-time":"2024-03-01T00:00:00Z","yanked":"broken & <bad>"},
        {"filename":"../evil","url":"https://files.example/evil","hashes":{}},
        {"filename":"demo-3.0.tar.gz","url":"file:///etc/passwd","hashes":{}}]}"#;
    Project::read(JSON, &at(), page.as_bytes()).unwrap()
}

#[test]
fn json_is_read_without_what_cannot_be_asked_for() {
    let demo = demo();
    let names: Vec<&str> = demo.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["demo-1.0-py3-none-any.whl", "demo-2.0.tar.gz"]);
    assert_eq!(demo.files[0].url.as_str(), "https://index.example/files/demo-1.0-py3-none-any.whl");
    assert_eq!(demo.files[1].url.as_str(), "https://files.example/d/demo-2.0.tar.gz");
    assert_eq!(demo.files[1].yanked.as_deref(), Some("broken & <bad>"));
}

#[test]
fn both_forms_say_the_same_and_lead_to_the_gateway() {
    let demo = demo();
    let json = demo.render("demo", Form::Json, Links::Gateway);
    let html = demo.render("demo", Form::Html, Links::Gateway);
    let here = Url::parse("http://127.0.0.1:1/0/simple/demo/").unwrap();
    for (kind, bytes) in [(JSON, &json), ("text/html", &html)] {
        let again = Project::read(kind, &here, bytes).unwrap();
        assert_eq!(again.files.len(), 2, "{kind}");
        assert_eq!(again.files[0].url.as_str(), "http://127.0.0.1:1/0/files/demo/demo-1.0-py3-none-any.whl");
        assert_eq!(again.files[0].hashes, demo.files[0].hashes);
        assert_eq!(again.files[0].metadata, demo.files[0].metadata);
        assert_eq!(again.files[0].requires_python, demo.files[0].requires_python);
        assert_eq!(again.files[1].yanked, demo.files[1].yanked);
    }
    let text = String::from_utf8(json).unwrap();
    assert!(!text.contains("files.example") && text.contains("\"api-version\":\"1.1\""), "{text}");
    assert!(demo.render("demo", Form::Json, Links::Index).windows(13).any(|window| window == b"files.example"));
}

#[test]
fn an_earlier_day_knows_only_what_was_there() {
    let moment = |text: &str| u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_millisecond()).unwrap();
    let narrowed = demo().before(moment("2024-03-01T00:00:00Z")).unwrap();
    assert_eq!((narrowed.files.len(), narrowed.versions.as_slice()), (1, &["1.0".to_owned()][..]));
    assert_eq!(demo().before(moment("2024-03-01T00:00:01Z")).unwrap().files.len(), 2);
    let html = Project::read("text/html", &at(), b"<a href='demo-1.0.tar.gz'>demo-1.0.tar.gz</a>").unwrap();
    assert_eq!(html.before(0).unwrap_err(), "demo-1.0.tar.gz");
}

#[test]
fn html_is_read_as_pip_reads_it() {
    let page = "<html><head><base href='https://cdn.example/x/'></head><body><A HREF=demo-1.0.zip#md5=00&amp;egg=x>any text</a>\
        <a href='/y/demo-2.0-py3-none-any.whl#sha256=ab' data-requires-python='&gt;=3.8' data-yanked data-core-metadata='sha256=cd'>x</a>\
        <a href='readme.html'>readme</a><a href='javascript:alert(1)'>no</a></body>";
    let files = Project::read("text/html; charset=utf-8", &at(), page.as_bytes()).unwrap().files;
    assert_eq!(files.len(), 2);
    assert_eq!(files[0].url.as_str(), "https://cdn.example/x/demo-1.0.zip");
    assert_eq!(files[0].hashes["md5"], "00");
    assert_eq!(files[1].url.as_str(), "https://cdn.example/y/demo-2.0-py3-none-any.whl");
    assert_eq!((files[1].requires_python.as_deref(), files[1].yanked.as_deref()), (Some(">=3.8"), Some("")));
    assert_eq!(files[1].metadata, Metadata::Hashed([("sha256".to_owned(), "cd".to_owned())].into()));
}

#[test]
fn the_form_is_what_the_client_likes_best() {
    let pip = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01";
    for (accept, form) in [
        (None, Some(Form::Text)),
        (Some("*/*"), Some(Form::Text)),
        (Some(pip), Some(Form::Json)),
        (Some("text/html"), Some(Form::Text)),
        (Some("application/vnd.pypi.simple.v1+html"), Some(Form::Html)),
        (Some("image/png"), None),
        (Some("application/vnd.pypi.simple.v1+json;q=0"), None),
    ] {
        assert_eq!(Form::accepted(accept), form, "{accept:?}");
    }
}
