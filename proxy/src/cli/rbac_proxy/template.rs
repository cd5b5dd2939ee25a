//! The templates of kube-rbac-proxy's `resourceAttributes`: text with `{{ .Value }}` and its like.
//!
//! Go's template language has much more; what is not here is refused when the file is read, never left empty.

use serde::{Deserialize, Deserializer};

/// Text and fields, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Value,
    Header,
    Query,
    Segment,
    Method,
}

const FIELDS: &[(&str, Field)] = &[
    (".FromHeader", Field::Header),
    (".FromMethod", Field::Method),
    (".FromPathSegment", Field::Segment),
    (".FromQueryString", Field::Query),
    (".Value", Field::Value),
];

/// Of one request.
#[derive(Clone, Copy, Default)]
pub struct Values<'a> {
    pub value: &'a str,
    pub header: &'a str,
    pub query: &'a str,
    pub segment: &'a str,
    pub method: &'a str,
}

impl Template {
    pub fn parse(mut text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        while let Some(open) = text.find("{{") {
            let close =
                text[open..].find("}}").ok_or_else(|| format!("`{text}` opens `{{{{` and does not close it"))?;
            let inner = text[open + 2..open + close].trim();
            let field = FIELDS.iter().find(|(name, _)| *name == inner).map(|(_, field)| *field);
            let names = || FIELDS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let field = field.ok_or_else(|| format!("`{{{{ {inner} }}}}` is none of {}", names()))?;
            parts.push(Part::Text(text[..open].into()));
            parts.push(Part::Field(field));
            text = &text[open + close + 2..];
        }
        parts.push(Part::Text(text.into()));
        Ok(Template(parts))
    }

    pub fn fill(&self, values: &Values<'_>) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Field(Field::Value) => values.value,
            Part::Field(Field::Header) => values.header,
            Part::Field(Field::Query) => values.query,
            Part::Field(Field::Segment) => values.segment,
            Part::Field(Field::Method) => values.method,
        });
        parts.collect()
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        let text = String::deserialize(deserializer)?;
        Template::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_do_templates_become() {
        let values = Values { value: "blue", header: "h", query: "q", segment: "s", method: "get" };
        let cases = [
            ("", ""),
            ("plain", "plain"),
            ("{{ .Value }}", "blue"),
            ("a-{{.Value}}-{{ .FromHeader}}", "a-blue-h"),
            ("{{.FromQueryString}}{{.FromPathSegment}}{{.FromMethod}}", "qsget"),
            ("}}", "}}"),
        ];
        for (text, expected) in cases {
            assert_eq!(Template::parse(text).unwrap().fill(&values), expected, "{text}");
        }
        for bad in ["{{", "{{ .Value", "{{ .Secret }}", "{{ if .Value }}x{{ end }}", "{{}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        // What a request says is never read as a template.
        let sly = Values { value: "{{ .FromHeader }}", header: "h", ..Values::default() };
        assert_eq!(Template::parse("{{ .Value }}").unwrap().fill(&sly), "{{ .FromHeader }}");
    }
}
