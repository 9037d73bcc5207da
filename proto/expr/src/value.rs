//! The values of the language and the coercions between them.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;

use crate::number;

/// A value. Cloning is cheap: text, arrays and objects are shared.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// Nothing; what a missing property gives.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An IEEE double.
    Number(f64),
    /// Text.
    String(Arc<str>),
    /// Values in order.
    Array(Array),
    /// Named values in order of insertion.
    Object(Object),
}

/// The kinds of value, by their names in the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `Null`
    Null,
    /// `Boolean`
    Boolean,
    /// `Number`
    Number,
    /// `String`
    String,
    /// `Array`
    Array,
    /// `Object`
    Object,
}

impl Kind {
    /// The name that the language uses, such as `Boolean`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Null => "Null",
            Kind::Boolean => "Boolean",
            Kind::Number => "Number",
            Kind::String => "String",
            Kind::Array => "Array",
            Kind::Object => "Object",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An array. One that came from `.*` is *filtered*: a further index applies to each of its items.
#[derive(Clone, Debug, Default)]
pub struct Array {
    items: Arc<Vec<Value>>,
    filtered: bool,
}

impl Array {
    /// An array of these items.
    pub fn new(items: Vec<Value>) -> Array {
        Array { items: Arc::new(items), filtered: false }
    }

    pub(crate) fn filtered(items: Vec<Value>) -> Array {
        Array { items: Arc::new(items), filtered: true }
    }

    pub(crate) fn is_filtered(&self) -> bool {
        self.filtered
    }

    /// The items in order.
    pub fn items(&self) -> &[Value] {
        &self.items
    }
}

/// An object: keys are compared without regard to case and keep the spelling and order of their first insertion.
#[derive(Clone, Debug, Default)]
pub struct Object {
    entries: Arc<IndexMap<String, (Arc<str>, Value)>>,
}

impl Object {
    /// An object without keys.
    pub fn new() -> Object {
        Object::default()
    }

    /// The value under `key`, in any case; `None` when there is none.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(&key.to_lowercase()).map(|(_, value)| value)
    }

    /// Sets `key`, replacing the value that it had under any case; the first spelling stays.
    pub fn insert(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let entries = Arc::make_mut(&mut self.entries);
        match entries.get_mut(&key.to_lowercase()) {
            Some(entry) => entry.1 = value,
            None => {
                entries.insert(key.to_lowercase(), (Arc::from(key), value));
            }
        }
    }

    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.values().map(|(key, value)| (&**key, value))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<K: AsRef<str>, V: Into<Value>> FromIterator<(K, V)> for Object {
    /// Where two keys differ only in case, the first one stays, as the language documents for JSON objects.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Object {
        let mut entries = IndexMap::new();
        for (key, value) in pairs {
            let key = key.as_ref();
            entries.entry(key.to_lowercase()).or_insert_with(|| (Arc::from(key), value.into()));
        }
        Object { entries: Arc::new(entries) }
    }
}

impl Value {
    /// A string value.
    pub fn string(text: impl AsRef<str>) -> Value {
        Value::String(Arc::from(text.as_ref()))
    }

    /// Which kind of value this is.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Boolean,
            Value::Number(_) => Kind::Number,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
            Value::Object(_) => Kind::Object,
        }
    }

    /// Whether this is neither array nor object.
    pub fn is_primitive(&self) -> bool {
        !matches!(self, Value::Array(_) | Value::Object(_))
    }

    /// Whether a condition takes this for true: all but null, false, zero, NaN and the empty string.
    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(value) => *value != 0.0 && !value.is_nan(),
            Value::String(text) => !text.is_empty(),
            Value::Array(_) | Value::Object(_) => true,
        }
    }

    /// The text that the language writes for this value; `Array` and `Object` for those.
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => number::coerce(*value),
            Value::String(text) => text.to_string(),
            Value::Array(_) => Kind::Array.as_str().to_owned(),
            Value::Object(_) => Kind::Object.as_str().to_owned(),
        }
    }

    /// The number that the language takes this value for; NaN for arrays, objects and other text.
    pub fn to_number(&self) -> f64 {
        match self {
            Value::Null => 0.0,
            Value::Bool(value) => f64::from(u8::from(*value)),
            Value::Number(value) => *value,
            Value::String(text) => number::parse(text),
            Value::Array(_) | Value::Object(_) => f64::NAN,
        }
    }

    /// `==` of the language: loose, without regard to case; arrays and objects equal only themselves.
    pub fn loosely_equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Array(a), Value::Array(b)) => Arc::ptr_eq(&a.items, &b.items) && a.filtered == b.filtered,
            (Value::Object(a), Value::Object(b)) => Arc::ptr_eq(&a.entries, &b.entries),
            (Value::Null, Value::Null) => true,
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// `<` and `>` of the language; `None` when the two cannot be ordered (NaN, arrays, objects).
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        match (self, other) {
            (Value::String(a), Value::String(b)) => Some(ordinal(&upper(a), &upper(b))),
            (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => None,
            // Null is equal to null, but neither smaller nor greater; equality asks that before it comes here.
            (Value::Null, Value::Null) => None,
            _ => self.to_number().partial_cmp(&other.to_number()),
        }
    }

    /// Reads a JSON value. Keys that differ only in case keep the first.
    pub fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            // Every JSON number reads as a double; only a build with arbitrary precision could say otherwise.
            serde_json::Value::Number(value) => Value::Number(value.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(text) => Value::string(text),
            serde_json::Value::Array(items) => Value::Array(Array::new(items.iter().map(Value::from_json).collect())),
            serde_json::Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key, Value::from_json(value))).collect()),
        }
    }

    /// The same value as JSON. Whole numbers become JSON integers; NaN and infinities, which JSON lacks, become null.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(*value),
            Value::Number(value) => {
                let whole = value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0;
                if whole { serde_json::Value::from(*value as i64) } else { serde_json::Value::from(*value) }
            }
            Value::String(text) => serde_json::Value::String(text.to_string()),
            Value::Array(array) => array.items().iter().map(Value::to_json).collect(),
            Value::Object(object) => {
                serde_json::Value::Object(object.iter().map(|(key, value)| (key.to_owned(), value.to_json())).collect())
            }
        }
    }
}

/// Structural equality, for tests and callers; the language's own `==` is [`Value::loosely_equals`].
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => a.items == b.items,
            (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().eq(b.iter()),
            _ => false,
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Number(value)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::string(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(Arc::from(text))
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Value {
        Value::Object(object)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::Array(Array::new(items))
    }
}

/// Upper case as the language compares it: the dotless i stays, so that it never equals `I`.
pub(crate) fn upper(text: &str) -> String {
    if !text.contains('ı') {
        return text.to_uppercase();
    }
    let mut folded = String::with_capacity(text.len());
    for (index, segment) in text.split('ı').enumerate() {
        if index > 0 {
            folded.push('ı');
        }
        folded.push_str(&segment.to_uppercase());
    }
    folded
}

/// Order by UTF-16 code units, which differs from the order of `str` beyond the basic plane.
fn ordinal(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}
