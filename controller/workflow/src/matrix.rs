//! A matrix to its cells: the product of its vectors, less `exclude`, plus `include`, as the language documents it.

use indexmap::IndexMap;
use serde_json::{Map, Value};

/// How many vectors a matrix may have: together with the number of cells this bounds the work.
const MAX_VECTORS: usize = 64;

/// How many entries `include` and `exclude` may have each.
const MAX_ENTRIES: usize = 512;

/// One cell: the values of the `matrix` context.
pub type Cell = Map<String, Value>;

/// Why a matrix has no cells to run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixError {
    /// `matrix:` is not a mapping.
    #[error("a matrix is a mapping of names to lists of values, this is {0}")]
    NotAMapping(&'static str),
    /// A vector is not a list.
    #[error("matrix vector '{name}' must be a list of values, this is {kind}")]
    NotAList {
        /// The vector's name.
        name: String,
        /// What it is instead.
        kind: &'static str,
    },
    /// A vector is empty.
    #[error("matrix vector '{0}' does not contain any values")]
    EmptyVector(String),
    /// `include` or `exclude` is not a list of mappings.
    #[error("matrix {0} must be a list of mappings")]
    NotCells(&'static str),
    /// `exclude` names a key that the matrix does not have.
    #[error("matrix exclude key '{0}' does not match any key within the matrix")]
    UnknownExclude(String),
    /// There are more cells than allowed.
    #[error("the matrix has more than {limit} cells")]
    TooMany {
        /// The most there may be.
        limit: usize,
    },
    /// A part of the matrix has more entries than allowed.
    #[error("the matrix has more than {limit} {part}")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// The most there may be.
        limit: usize,
    },
    /// Nothing is left to run.
    #[error("the matrix has no cells")]
    Empty,
}

/// Keeps the cells that were asked for: each key that a cell has must have one of the values that are wanted of it, as text. Keys that
/// a cell does not have say nothing about it.
pub fn choose(cells: &mut Vec<Cell>, only: &IndexMap<String, Vec<String>>) {
    let text = |value: &Value| caisson_expr::Value::from_json(value).to_text();
    cells.retain(|cell| only.iter().all(|(key, wanted)| get(cell, key).is_none_or(|value| wanted.contains(&text(value)))));
}

/// The cells of a matrix whose expressions are evaluated, in the documented order: the last vector varies fastest, then
/// the cells that `include` adds. Never empty, never more than `limit`.
///
/// # Errors
/// [`MatrixError`], with the name of the part that is wrong.
pub fn expand(matrix: &Value, limit: usize) -> Result<Vec<Cell>, MatrixError> {
    let Value::Object(matrix) = matrix else { return Err(MatrixError::NotAMapping(kind(matrix))) };
    let mut vectors: Vec<(&str, &[Value])> = Vec::new();
    let mut include: &[Value] = &[];
    let mut exclude: &[Value] = &[];
    for (name, value) in matrix {
        let list = match value {
            Value::Array(list) => list.as_slice(),
            Value::Null if name == "include" || name == "exclude" => &[],
            _ => return Err(MatrixError::NotAList { name: name.clone(), kind: kind(value) }),
        };
        match name.as_str() {
            "include" => include = list,
            "exclude" => exclude = list,
            _ if list.is_empty() => return Err(MatrixError::EmptyVector(name.clone())),
            _ => vectors.push((name, list)),
        }
    }
    for (length, part, limit) in [
        (vectors.len(), "vectors", MAX_VECTORS),
        (include.len(), "entries in include", MAX_ENTRIES),
        (exclude.len(), "entries in exclude", MAX_ENTRIES),
    ] {
        if length > limit {
            return Err(MatrixError::TooLong { part, limit });
        }
    }
    let include = cells_of(include, "include")?;
    let exclude = cells_of(exclude, "exclude")?;
    for key in exclude.iter().flat_map(|cell| cell.keys()) {
        if !vectors.iter().any(|(name, _)| same_key(name, key)) {
            return Err(MatrixError::UnknownExclude(key.clone()));
        }
    }

    let mut cells = product(&vectors, limit)?;
    cells.retain(|cell| !exclude.iter().any(|exclude| exclude.iter().all(|(key, value)| get(cell, key) == Some(value))));

    if cells.len() > limit {
        return Err(MatrixError::TooMany { limit });
    }

    // Cells that an include adds are not extended by later ones: only the original product is.
    let originals = cells.len();
    for extra in include {
        let mut placed = false;
        for cell in &mut cells[..originals] {
            let keeps = vectors.iter().all(|(name, _)| get(extra, name).is_none_or(|value| get(cell, name) == Some(value)));
            if keeps {
                placed = true;
                for (key, value) in extra {
                    set(cell, key, value);
                }
            }
        }
        if !placed {
            cells.push(extra.clone());
        }
    }
    match cells.len() {
        0 => Err(MatrixError::Empty),
        count if count > limit => Err(MatrixError::TooMany { limit }),
        _ => Ok(cells),
    }
}

/// The cell's values as they stand in a job's name: scalars in order, those inside lists and mappings too.
pub(crate) fn label(cell: &Cell) -> String {
    let mut words = Vec::new();
    cell.values().for_each(|value| leaves(value, &mut words));
    words.join(", ")
}

fn leaves(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| leaves(item, words)),
        Value::Object(map) => map.values().for_each(|item| leaves(item, words)),
        Value::Null => {}
        scalar => words.push(caisson_expr::Value::from_json(scalar).to_text()),
    }
}

fn product(vectors: &[(&str, &[Value])], limit: usize) -> Result<Vec<Cell>, MatrixError> {
    if vectors.is_empty() {
        return Ok(Vec::new());
    }
    // `exclude` may take cells away again, so the product itself may be larger; four times bounds the work.
    let bound = limit.saturating_mul(4);
    let mut cells = vec![Cell::new()];
    for (name, values) in vectors {
        if cells.len().saturating_mul(values.len()) > bound {
            return Err(MatrixError::TooMany { limit });
        }
        let extended = cells.iter().flat_map(|cell| {
            values.iter().map(move |value| {
                let mut cell = cell.clone();
                cell.insert((*name).to_owned(), value.clone());
                cell
            })
        });
        cells = extended.collect();
    }
    Ok(cells)
}

fn cells_of<'v>(list: &'v [Value], part: &'static str) -> Result<Vec<&'v Cell>, MatrixError> {
    list.iter().map(|item| item.as_object().ok_or(MatrixError::NotCells(part))).collect()
}

fn same_key(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

fn get<'c>(cell: &'c Cell, key: &str) -> Option<&'c Value> {
    cell.get(key).or_else(|| cell.iter().find(|(name, _)| same_key(name, key)).map(|(_, value)| value))
}

fn set(cell: &mut Cell, key: &str, value: &Value) {
    let existing = cell.keys().find(|name| same_key(name, key)).cloned();
    cell.insert(existing.unwrap_or_else(|| key.to_owned()), value.clone());
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(matrix: &Value, expected: &Value) {
        assert_eq!(serde_json::to_value(expand(matrix, 256).unwrap()).unwrap(), *expected);
    }

    #[test]
    fn the_last_vector_varies_fastest() {
        check(
            &json!({"os": ["a", "b"], "v": [1, 2]}),
            &json!([{"os": "a", "v": 1}, {"os": "a", "v": 2}, {"os": "b", "v": 1}, {"os": "b", "v": 2}]),
        );
    }

    #[test]
    fn include_follows_the_documented_example() {
        check(
            &json!({
                "fruit": ["apple", "pear"],
                "animal": ["cat", "dog"],
                "include": [
                    {"color": "green"},
                    {"color": "pink", "animal": "cat"},
                    {"fruit": "apple", "shape": "circle"},
                    {"fruit": "banana"},
                    {"fruit": "banana", "animal": "cat"},
                ],
            }),
            &json!([
                {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
                {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
                {"fruit": "pear", "animal": "cat", "color": "pink"},
                {"fruit": "pear", "animal": "dog", "color": "green"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ]),
        );
    }

    #[test]
    fn include_alone_makes_cells_and_exclude_matches_partly() {
        check(&json!({"include": [{"a": 1}, {"a": 2, "b": 3}]}), &json!([{"a": 1}, {"a": 2, "b": 3}]));
        check(&json!({"os": ["a", "b"], "v": [1, 2], "exclude": [{"os": "a"}, {"os": "b", "v": 2}]}), &json!([{"os": "b", "v": 1}]));
        check(
            &json!({"os": ["a"], "exclude": [{"os": "a"}], "include": [{"os": "a", "extra": true}]}),
            &json!([{"os": "a", "extra": true}]),
        );
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        for (matrix, error) in [
            (json!([1]), MatrixError::NotAMapping("a list")),
            (json!({"a": 1}), MatrixError::NotAList { name: "a".into(), kind: "a number" }),
            (json!({"a": []}), MatrixError::EmptyVector("a".into())),
            (json!({"a": [1], "include": [1]}), MatrixError::NotCells("include")),
            (json!({"a": [1], "exclude": [{"b": 1}]}), MatrixError::UnknownExclude("b".into())),
            (json!({"a": [1], "exclude": [{"a": 1}]}), MatrixError::Empty),
            (json!({}), MatrixError::Empty),
            (json!({"include": vec![json!({}); 513]}), MatrixError::TooLong { part: "entries in include", limit: 512 }),
            (json!({"a": vec![0; 20], "b": vec![0; 20]}), MatrixError::TooMany { limit: 256 }),
        ] {
            assert_eq!(expand(&matrix, 256).unwrap_err(), error);
        }
        let hostile: Value = (0..40).map(|i| (format!("k{i}"), json!([1, 2, 3, 4]))).collect::<Map<_, _>>().into();
        assert_eq!(expand(&hostile, 256).unwrap_err(), MatrixError::TooMany { limit: 256 });
    }
}
