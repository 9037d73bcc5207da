//! Text to tokens.

use crate::error::{ErrorKind, ExprError, Span};
use crate::number;

/// A token; text is looked up through its span.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Dot,
    Star,
    Not,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
    True,
    False,
    Null,
    Number(f64),
    String(String),
    Name(String),
    End,
}

/// Splits `text` into tokens with their places; the last one is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token, Span)>, ExprError> {
    let mut lexer = Lexer { text, at: 0, tokens: Vec::new() };
    while lexer.at < text.len() {
        lexer.token()?;
    }
    lexer.tokens.push((Token::End, Span::new(text.len(), text.len())));
    Ok(lexer.tokens)
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    tokens: Vec<(Token, Span)>,
}

impl Lexer<'_> {
    fn token(&mut self) -> Result<(), ExprError> {
        let start = self.at;
        let Some(first) = self.text[start..].chars().next() else {
            return Ok(());
        };
        let second = self.text[start + first.len_utf8()..].chars().next();
        let token = match (first, second) {
            (' ' | '\r' | '\t' | '\n', _) => {
                self.at += 1;
                return Ok(());
            }
            ('(', _) => Token::LeftParen,
            (')', _) => Token::RightParen,
            ('[', _) => Token::LeftBracket,
            (']', _) => Token::RightBracket,
            (',', _) => Token::Comma,
            ('*', _) => Token::Star,
            ('!', Some('=')) => Token::NotEqual,
            ('!', _) => Token::Not,
            ('<', Some('=')) => Token::LessEqual,
            ('<', _) => Token::Less,
            ('>', Some('=')) => Token::GreaterEqual,
            ('>', _) => Token::Greater,
            ('=', Some('=')) => Token::Equal,
            ('&', Some('&')) => Token::And,
            ('|', Some('|')) => Token::Or,
            ('.', _) if self.follows_operand() => Token::Dot,
            ('.' | '+' | '-' | '0'..='9', _) => return self.number(),
            ('\'', _) => return self.string(),
            _ => return self.name(),
        };
        let width = match token {
            Token::NotEqual | Token::LessEqual | Token::GreaterEqual | Token::Equal | Token::And | Token::Or => 2,
            _ => 1,
        };
        self.push(token, start, start + width);
        Ok(())
    }

    fn push(&mut self, token: Token, start: usize, end: usize) {
        self.at = end;
        self.tokens.push((token, Span::new(start, end)));
    }

    /// Whether a dot at this place dereferences; elsewhere it begins a number.
    fn follows_operand(&self) -> bool {
        matches!(self.tokens.last(), Some((Token::Name(_) | Token::RightBracket | Token::RightParen | Token::Star, _)))
    }

    /// The end of the word that begins at `start`; a word never ends before its first character.
    fn word_end(&self, start: usize, with_dots: bool) -> usize {
        self.text[start..]
            .char_indices()
            .skip(1)
            .find(|&(_, c)| is_boundary(c) && !(with_dots && c == '.'))
            .map_or(self.text.len(), |(offset, _)| start + offset)
    }

    fn number(&mut self) -> Result<(), ExprError> {
        let start = self.at;
        let end = self.word_end(start, true);
        let value = number::parse(&self.text[start..end]);
        if value.is_nan() {
            return Err(self.unexpected(start, end));
        }
        self.push(Token::Number(value), start, end);
        Ok(())
    }

    fn string(&mut self) -> Result<(), ExprError> {
        let start = self.at;
        let mut value = String::new();
        let mut rest = start + 1;
        loop {
            let Some(quote) = self.text[rest..].find('\'') else {
                return Err(self.unexpected(start, self.text.len()));
            };
            value.push_str(&self.text[rest..rest + quote]);
            rest += quote + 1;
            if !self.text[rest..].starts_with('\'') {
                break;
            }
            value.push('\'');
            rest += 1;
        }
        self.push(Token::String(value), start, rest);
        Ok(())
    }

    fn name(&mut self) -> Result<(), ExprError> {
        let start = self.at;
        let end = self.word_end(start, false);
        let word = &self.text[start..end];
        let mut letters = word.bytes();
        let legal = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && letters.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !legal {
            return Err(self.unexpected(start, end));
        }
        let is_property = matches!(self.tokens.last(), Some((Token::Dot, _)));
        let token = match word {
            "true" if !is_property => Token::True,
            "false" if !is_property => Token::False,
            "null" if !is_property => Token::Null,
            "NaN" if !is_property => Token::Number(f64::NAN),
            "Infinity" if !is_property => Token::Number(f64::INFINITY),
            _ => Token::Name(word.to_owned()),
        };
        self.push(token, start, end);
        Ok(())
    }

    fn unexpected(&self, start: usize, end: usize) -> ExprError {
        let symbol = &self.text[start..end];
        let message = format!("unexpected symbol: '{symbol}'");
        ExprError::new(ErrorKind::Lexing, message, Span::new(start, end))
    }
}

fn is_boundary(c: char) -> bool {
    matches!(c, '(' | '[' | ')' | ']' | ',' | '.' | '!' | '>' | '<' | '=' | '&' | '|') || number::is_space(c)
}
